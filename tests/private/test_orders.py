"""What attention nodes are told: exactly the causal pattern of their shards, and no position."""

from hypothesis import given
from hypothesis import strategies as st

from muster.private.orders import NewTokens, attention_orders, comp_rows
from muster.spec.token_shards import TokenShards

RULES = st.builds(TokenShards, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))


@given(RULES, st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=3), st.integers(0, 9))
def test_each_query_sees_in_all_shards_together_what_the_mask_lets_it_see(
    rule: TokenShards, starts: list[tuple[int, int]], window: int
) -> None:
    new = [NewTokens(sequence, start, count) for sequence, (start, count) in enumerate(starts)]
    seen: dict[tuple[int, int], set[int]] = {}
    for order in attention_orders(rule, (window,), new, epoch=0, step=0):
        queries, keys = rule.attn_of(order.receiver)
        for rows in order.sequences:
            tokens = new[rows.sequence]
            positions = [at for at in tokens.positions if rule.shard_of(at) == queries]
            held = [at for at in range(tokens.start + tokens.count) if rule.shard_of(at) == keys]
            for at, start, stop in zip(positions, rows.starts[0], rows.stops[0], strict=True):
                seen.setdefault((rows.sequence, at), set()).update(held[start:stop])
    for tokens in new:
        for at in tokens.positions:
            first = max(0, at + 1 - window) if window else 0
            if not 0 < len(seen.get((tokens.sequence, at), set())) == at + 1 - first:
                raise AssertionError((tokens, at, seen))
            assert seen[tokens.sequence, at] == set(range(first, at + 1))


@given(RULES, st.integers(0, 9), st.integers(1, 30))
def test_every_row_goes_to_one_comp_node_and_every_rank_is_given_once(
    rule: TokenShards, start: int, count: int
) -> None:
    found = comp_rows(rule, [NewTokens(0, start, count)])
    assert sorted(row for mine in found.values() for row in mine.rows) == list(range(count))
    ranks = [pair for mine in found.values() for pair in zip(mine.shards, mine.ranks, strict=True)]
    assert len(set(ranks)) == count
    assert all(rule.comp_of(at) == role for role, mine in found.items() for at in mine.positions)


def test_nothing_that_an_attn_node_is_told_names_a_position() -> None:
    rule = TokenShards(cluster=2, comp_nodes=2, shards=3)
    near, far = (attention_orders(rule, (0,), [NewTokens(0, start, 6)], 0, 0) for start in (0, 6))
    for one, other in zip(near, far, strict=True):
        assert [one.query_from, one.key_from] == [
            tuple(1 - comp for comp in other.query_from),
            tuple(1 - comp for comp in other.key_from),
        ]
        assert len(one.sequences) == len(other.sequences) == 1
