"""Roles for machines: nobody sees enough, alone or with as many others as was allowed for."""

from itertools import combinations

import pytest

from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.private.designs import designs, fewest_parties
from muster.plan.private.in_words import placement_in_words
from muster.plan.private.placement import PrivateMember, place, with_spare


def members(*owners: str) -> list[PrivateMember]:
    return [PrivateMember(f"m{index}", owner) for index, owner in enumerate(owners)]


def strangers(count: int) -> list[PrivateMember]:
    return members(*(f"o{index}" for index in range(count)))


@pytest.mark.parametrize(("parties", "colluders"), [(3, 1), (7, 1), (13, 1), (5, 2), (7, 2), (12, 2), (13, 3), (7, 3)])
def test_in_every_design_two_shards_meet_and_colluders_miss_one(parties: int, colluders: int) -> None:
    found = designs(parties, colluders)
    assert found
    for design in found:
        assert len(design.blocks) <= parties
        for pair in combinations(range(design.shards), 2):
            assert any(set(pair) <= block for block in design.blocks), (design.name, pair)
        for coalition in combinations(design.blocks, colluders):
            assert len(frozenset().union(*coalition)) < design.shards, design.name


@pytest.mark.parametrize(("count", "colluders"), [(3, 1), (4, 1), (6, 1), (7, 1), (5, 2), (7, 2)])
def test_every_role_is_given_once_and_every_gap_is_kept(count: int, colluders: int) -> None:
    placement = place(strangers(count), min_gap=9, colluders=colluders)
    assert sorted(role for roles in placement.roles.values() for role in roles) == list(placement.rule.roles)
    for coalition in combinations(placement.roles, colluders):
        assert placement.sight_of(coalition).smallest_gap >= 9
    assert placement.worst()[1].smallest_gap >= 9


def test_more_machines_show_each_of_them_less() -> None:
    shares = [place(strangers(count)).worst()[1] for count in (3, 6, 7, 13)]
    found = [each.seen / each.tokens for each in shares]
    assert found == pytest.approx([2 / 3, 1 / 2, 3 / 7, 4 / 13])


@pytest.mark.parametrize(("count", "colluders", "more"), [(2, 1, 1), (4, 2, 1), (3, 2, 2), (1, 1, 2)])
def test_too_few_machines_are_refused_with_the_number_that_would_do(count: int, colluders: int, more: int) -> None:
    with pytest.raises(DoesNotFit, match=f"{fewest_parties(colluders)} owners are the fewest .*add {more} more"):
        place(strangers(count), colluders=colluders)


def test_machines_of_one_owner_are_one_party() -> None:
    with pytest.raises(DoesNotFit, match="4 machines of 2 owners"):
        place(members("a", "a", "b", "b"))
    placement = place(members("a", "a", "b", "c"))
    assert placement.sight_of(placement.machines_of(["a"])).smallest_gap >= 17
    assert len(placement.roles) == 4


def test_a_spare_takes_a_lost_machines_roles_and_nobody_reads_more() -> None:
    placement = place(members("a", "b", "c"))
    spares = [PrivateMember("m1", "b"), PrivateMember("m8", "b"), PrivateMember("m9", "d")]
    after = with_spare(placement, "m0", spares)
    assert after.roles == {"m9": placement.roles["m0"], "m1": placement.roles["m1"], "m2": placement.roles["m2"]}
    assert after.owners == {"m9": "d", "m1": "b", "m2": "c"}
    with pytest.raises(DoesNotFit, match="would read more"):
        with_spare(placement, "m0", spares[:2])
    assert set(with_spare(placement, "m0", [PrivateMember("m7", "a")]).roles) == {"m7", "m1", "m2"}


@pytest.mark.parametrize(("min_gap", "colluders"), [(1, 1), (9, 0)])
def test_numbers_that_protect_nothing_are_refused(min_gap: int, colluders: int) -> None:
    with pytest.raises(InvalidRequest, match="protects nothing"):
        place(strangers(3), min_gap, colluders)


def test_what_is_protected_is_said_in_words() -> None:
    lines = placement_in_words(place(strangers(5), min_gap=9, colluders=2), vocab_size=32000)
    assert len(lines) == 5 + 2
    assert (
        "10^8 forward passes of a search that a language model guides (in the median), 10^36 of a blind one (gap 9)"
        in lines[0]
    )
    assert lines[5].startswith("If all machines of o0 and o1 talk, they read")
    assert "no more than 2 owners to talk" in lines[6]
