"""Merkle trees that grow at their end: one root over all leaves so far, and a path from any leaf to it. BLAKE3.

The tree of n leaves is that of RFC 6962 (section 2.1): the left side takes the largest power of two below n. A leaf and
an inner node are hashed with different prefixes, so that none can stand for the other.
"""

from collections.abc import Sequence

from blake3 import blake3

LEAF, INNER = b"\x00", b"\x01"
EMPTY = blake3(b"muster: no leaves").digest()


def leaf(data: bytes) -> bytes:
    return blake3(LEAF + data).digest()


def inner(left: bytes, right: bytes) -> bytes:
    return blake3(INNER + left + right).digest()


def block_leaf(start: int, count: int, digest: bytes, values: bytes) -> bytes:
    """What a block of receipts stands for in the tree of its request."""
    return leaf(start.to_bytes(8, "little") + count.to_bytes(8, "little") + digest + values)


class GrowingTree:
    """Keeps one hash for each power of two, so that a leaf costs O(log n) whenever it comes."""

    def __init__(self) -> None:
        self.count = 0
        self._peaks: list[tuple[int, bytes]] = []
        """(leaves, root) of perfect trees, the largest first."""

    def add(self, leaf_hash: bytes) -> None:
        self.count += 1
        size, top = 1, leaf_hash
        while self._peaks and self._peaks[-1][0] == size:
            _, left = self._peaks.pop()
            size, top = 2 * size, inner(left, top)
        self._peaks.append((size, top))

    def copy(self) -> "GrowingTree":
        """One that grows by itself from here on."""
        other = GrowingTree()
        other.count, other._peaks = self.count, list(self._peaks)
        return other

    @property
    def root(self) -> bytes:
        if not self._peaks:
            return EMPTY
        _, top = self._peaks[-1]
        for _, left in reversed(self._peaks[:-1]):
            top = inner(left, top)
        return top


def root_of(leaves: Sequence[bytes]) -> bytes:
    tree = GrowingTree()
    for one in leaves:
        tree.add(one)
    return tree.root


def path_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes beside the way from leaf `index` to the root, the lowest first."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*path_of(leaves[:split], index), root_of(leaves[split:])]
    return [*path_of(leaves[split:], index - split), root_of(leaves[:split])]


def root_by_path(leaf_hash: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that this leaf and its path lead to; None where the path is not one of a tree of `count` leaves."""
    if not 0 <= index < count or (count == 1 and path):
        return None
    if count == 1:
        return leaf_hash
    if not path:
        return None
    split, beside = _split(count), path[-1]
    if index < split:
        below = root_by_path(leaf_hash, index, split, path[:-1])
        return None if below is None else inner(below, beside)
    below = root_by_path(leaf_hash, index - split, count - split, path[:-1])
    return None if below is None else inner(beside, below)


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return int(1 << ((count - 1).bit_length() - 1))
