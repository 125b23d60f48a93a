"""Which tensors of a stage stay in memory: the same share of every layer, by whole tensors. Knows no bytes on disk.

Layers of one kind should take equally long to fetch, or the disk waits for a buffer in one layer and computing for the
disk in the next. So what a layer keeps too much or too little of its share, the next one makes up for.
"""

from collections.abc import Sequence

LEAST_BYTES = 2**16
"""Smaller tensors (norms, biases) stay: a request to the disk takes longer than they are worth."""

Sizes = Sequence[tuple[str, int]]
"""Name and bytes of each tensor of a layer."""


CHOSEN_FROM = 12
"""Tensors of a layer of which every choice is looked at; of more, the largest are taken one after another."""


def kept(layers: Sequence[Sizes], share: float) -> frozenset[str]:
    """Names of those that stay, at most `share` of the bytes of all layers; 0 keeps only what is small.

    A layer keeps one of the two amounts around its share that whole tensors can make: whatever takes the longer of
    computing and fetching loses least where layers differ least (Jensen's inequality). `benchmarks/offload_tensors`
    lays this beside a mixed-integer program.
    """
    chosen: set[str] = set()
    owed = 0.0
    for sizes in layers:
        large = [(name, nbytes) for name, nbytes in sizes if nbytes >= LEAST_BYTES]
        chosen.update(name for name, nbytes in sizes if nbytes < LEAST_BYTES)
        if share >= 1:
            chosen.update(name for name, _ in large)
            continue
        wanted = share * sum(nbytes for _, nbytes in large)
        owed += wanted
        amounts = _amounts(large, wanted)
        above = min((one for one in amounts if one >= wanted), default=0)
        amount = above if above <= owed else max(one for one in amounts if one <= wanted)
        chosen.update(amounts[amount])
        owed -= amount
    return frozenset(chosen)


def _amounts(large: Sizes, wanted: float) -> dict[int, tuple[str, ...]]:
    """Bytes that some of the tensors make together, and which ones; 0 or what many large ones make is the least."""
    ordered = sorted(large, key=lambda pair: -pair[1])
    many, few = ordered[:-CHOSEN_FROM], ordered[-CHOSEN_FROM:]
    base, taken = 0, []
    for name, nbytes in many:
        if base + nbytes <= wanted:
            base += nbytes
            taken.append(name)
    found: dict[int, tuple[str, ...]] = {base: tuple(taken)}
    for name, nbytes in few:
        found = {**{nbytes + others: (*names, name) for others, names in found.items()}, **found}
    return found
