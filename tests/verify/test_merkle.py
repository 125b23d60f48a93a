"""Trees that grow at their end: whatever their size, each leaf has a path, and no other leaf has it."""

import pytest

from muster.verify.merkle import GrowingTree, block_leaf, inner, leaf, path_of, root_by_path, root_of

LEAVES = [leaf(bytes([number])) for number in range(13)]


@pytest.mark.parametrize("count", range(1, 14))
def test_every_leaf_leads_to_the_root_at_its_own_place_only(count: int) -> None:
    leaves = LEAVES[:count]
    root = root_of(leaves)
    for index in range(count):
        path = path_of(leaves, index)
        assert root_by_path(leaves[index], index, count, path) == root
        assert root_by_path(leaf(b"other"), index, count, path) != root
        assert root_by_path(leaves[index], index, count, [*path, root]) != root
        if index + 1 < count:
            assert root_by_path(leaves[index], index + 1, count, path) != root


def test_a_growing_tree_has_the_root_of_the_whole_at_every_size() -> None:
    tree = GrowingTree()
    for count, one in enumerate(LEAVES, start=1):
        tree.add(one)
        split = next(size for size in (8, 4, 2, 1, 0) if size < count)
        whole = one if count == 1 else inner(root_of(LEAVES[:split]), root_of(LEAVES[split:count]))
        assert tree.root == whole
    assert len({root_of(LEAVES[:count]) for count in range(14)}) == 14


def test_every_part_of_a_block_counts_in_its_leaf() -> None:
    assert len({block_leaf(*one) for one in ((0, 32, b"d", b"v"), (1, 32, b"d", b"v"), (0, 31, b"d", b"v"),
                                              (0, 32, b"e", b"v"), (0, 32, b"d", b"w"))}) == 5  # fmt: skip
