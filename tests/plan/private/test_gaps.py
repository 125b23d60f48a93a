"""What somebody sees of a prompt, and what the rest is worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.plan.private.gaps import sight, sight_of
from muster.spec.token_shards import TokenShards


def seen(pattern: str) -> list[bool]:
    return [mark == "x" for mark in pattern]


def test_stretches_are_those_that_end_before_a_seen_token() -> None:
    found = sight_of(seen("...xxx......xx.."))
    assert (found.seen, found.tokens, found.longest_run, found.stretches) == (5, 16, 3, (3, 6))
    assert (found.smallest_gap, found.largest_gap) == (4, 7)


@pytest.mark.parametrize(
    ("pattern", "work"),
    [("xxxx", 0.0), ("x.x", 2.0), ("..xx...x", 4.0), ("xx....", float("inf")), ("....", float("inf"))],
)
def test_the_work_is_that_of_the_easiest_stretch(pattern: str, work: float) -> None:
    assert sight_of(seen(pattern)).work(100) == pytest.approx(work)


@given(st.integers(2, 6), st.integers(1, 8))
def test_a_comp_node_has_the_gap_of_the_formula(comp_nodes: int, cluster: int) -> None:
    rule = TokenShards(cluster, comp_nodes, 1)
    first = sight(rule, [0], tokens=4 * rule.period)
    assert first.smallest_gap == first.largest_gap == (comp_nodes - 1) * cluster + 1
    # Whoever does not have the first token has less before its own first one.
    assert sight(rule, [1], tokens=4 * rule.period).smallest_gap == cluster + 1


@given(st.integers(3, 11), st.integers(1, 4))
def test_the_worst_attn_node_has_the_gap_of_the_formula(shards: int, cluster: int) -> None:
    rule = TokenShards(cluster, 1, shards)
    attending = [role for role in rule.roles if not rule.is_comp(role)]
    # Cascade's measure: the largest gap, between tokens, once the pattern has begun.
    inner = []
    for role in attending:
        pattern = [rule.sees(role, position) for position in range(3 * rule.period)]
        inner.append(sight_of(pattern[pattern.index(True) :]).largest_gap)
    assert min(inner) == (-(-shards // 2) - 1) * cluster + 1


def test_an_attn_node_has_a_smaller_gap_than_cascade_counts() -> None:
    rule = TokenShards(cluster=4, comp_nodes=8, shards=8)
    found = sight(rule, [rule.attn_role(0, 2)])
    assert (found.largest_gap, found.smallest_gap) == (21, 5)
