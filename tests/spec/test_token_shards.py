"""The rule by which tokens are shared out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.spec.token_shards import CLIENT, TokenShards

RULES = st.builds(TokenShards, st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))


@given(RULES, st.integers(0, 200))
def test_tokens_of_a_shard_are_counted_without_walking_the_prompt(rule: TokenShards, position: int) -> None:
    before = [rule.shard_of(each) for each in range(position)]
    assert [rule.count_before(shard, position) for shard in range(rule.shards)] == [
        before.count(shard) for shard in range(rule.shards)
    ]


@given(RULES)
def test_every_role_has_one_number_and_any_two_shards_meet_somewhere(rule: TokenShards) -> None:
    attending = [rule.attn_role(j, k) for j in range(rule.shards) for k in range(rule.shards)]
    assert [*range(rule.comp_nodes), *attending] == list(rule.roles)
    assert [rule.attn_of(role) for role in attending] == [
        (j, k) for j in range(rule.shards) for k in range(rule.shards)
    ]


def test_clusters_go_round() -> None:
    rule = TokenShards(cluster=2, comp_nodes=3, shards=2)
    assert [rule.comp_of(position) for position in range(8)] == [0, 0, 1, 1, 2, 2, 0, 0]
    assert [rule.shard_of(position) for position in range(6)] == [0, 0, 1, 1, 0, 0]
    assert [rule.name(role) for role in (CLIENT, 2, 4)] == ["the client", "CompNode 2", "AttnNode 0.1"]


def test_a_rule_without_tokens_is_no_rule() -> None:
    with pytest.raises(ValueError, match="cluster is 0"):
        TokenShards(0, 1, 1)
