"""Which tensors of a stage stay in memory: the same share of every layer, by whole tensors. Knows no bytes on disk.

Layers of one kind should take equally long to fetch, or the disk waits for a buffer in one layer and computing for the
disk in the next. So what a layer keeps too much or too little of its share, the next one makes up for.
"""

from collections.abc import Sequence

LEAST_BYTES = 2**16
"""Smaller tensors (norms, biases) stay: a request to the disk takes longer than they are worth."""

Sizes = Sequence[tuple[str, int]]
"""Name and bytes of each tensor of a layer."""


def kept(layers: Sequence[Sizes], share: float) -> frozenset[str]:
    """Names of those that stay, about `share` of the bytes of all layers; 0 keeps only what is small."""
    chosen: set[str] = set()
    owed = 0.0
    for sizes in layers:
        large = [(name, nbytes) for name, nbytes in sizes if nbytes >= LEAST_BYTES]
        chosen.update(name for name, nbytes in sizes if nbytes < LEAST_BYTES)
        if share >= 1:
            chosen.update(name for name, _ in large)
            continue
        owed += share * sum(nbytes for _, nbytes in large)
        for name, nbytes in sorted(large, key=lambda pair: -pair[1]):
            if nbytes <= owed:
                chosen.add(name)
                owed -= nbytes
    return frozenset(chosen)
