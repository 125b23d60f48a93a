"""Which whole tensors stay in memory: never more than the share, and as evenly as whole tensors go."""

from itertools import combinations, product

import pytest

from muster.offload.choice import Sizes, kept

SIZES = (("gate", 5_000_000), ("q", 3_000_000), ("k", 2_000_000), ("norm", 100))
LLAMA = (("gate", 4_700_000), ("up", 4_700_000), ("down", 4_700_000), ("q", 1_340_000), ("o", 1_340_000))
LLAMA += (("k", 300_000), ("v", 300_000))
"""As in a large one, a hundredth of it."""


def layers(count: int, sizes: Sizes = SIZES) -> list[list[tuple[str, int]]]:
    return [[(f"{index}.{name}", nbytes) for name, nbytes in sizes] for index in range(count)]


def kept_bytes(stays: frozenset[str], some: list[list[tuple[str, int]]]) -> list[int]:
    return [sum(nbytes for name, nbytes in one if name in stays and nbytes > 100) for one in some]


@pytest.mark.parametrize(
    ("sizes", "share"),
    [
        *((SIZES, share) for share in (0.1, 0.15, 0.35, 0.65, 0.77, 0.95)),
        # The largest first, and then what fits beside them, is slower in these and in two of those above.
        *((LLAMA, share) for share in (0.25, 0.79)),
    ],
)
def test_no_other_choice_within_the_share_takes_less_time(sizes: Sizes, share: float) -> None:
    some, large = layers(3, sizes), [nbytes for _, nbytes in sizes if nbytes > 100]
    whole = sum(large)
    amounts = {sum(chosen) for count in range(len(large) + 1) for chosen in combinations(large, count)}
    budget, compute = share * 3 * whole, (1 - share) * whole
    took = kept_bytes(kept(some, share), some)
    assert sum(took) <= budget + 1
    best = min(
        sum(max(compute, whole - amount) for amount in chosen)
        for chosen in product(amounts, repeat=3)
        if sum(chosen) <= budget + 1
    )
    assert sum(max(compute, whole - amount) for amount in took) == pytest.approx(best)


def test_small_tensors_always_stay_and_with_a_whole_share_all_do() -> None:
    assert kept(layers(2), 0) == {"0.norm", "1.norm"}
    assert len(kept(layers(2), 1)) == 8


def test_a_layer_of_very_many_tensors_is_chosen_from_in_no_time() -> None:
    many = [[(f"{layer}.{index}", 1_000_000 + 7919 * index) for index in range(400)] for layer in range(4)]
    stays = kept(many, 0.5)
    total = sum(nbytes for one in many for name, nbytes in one)
    assert 0.48 * total <= sum(nbytes for one in many for name, nbytes in one if name in stays) <= 0.5 * total
