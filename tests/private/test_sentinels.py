"""Sentinels: right ones are silent, and whoever changes rows is named."""

from itertools import count

import pytest
import torch

from muster.model.conformance import MemoryWeights
from muster.private.client import NewIds
from muster.private.local import LocalSession
from muster.private.sentinels import Sentinels, prepare, suspects
from muster.spec.token_shards import TokenShards
from tests.model.families import dense_model

RULE = TokenShards(cluster=2, comp_nodes=3, shards=3)
LENGTH = 24


@pytest.fixture(scope="module")
def weights() -> MemoryWeights:
    model = dense_model("llama")
    return MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())


def walked(session: LocalSession, sentinels: Sentinels, steps: int) -> object:
    """The first lie, beside a request that stands before the sentinel in every step."""
    for at in range(steps):
        if sentinels.is_over:
            session.forget(sentinels.next())
        session.step([NewIds(10_000, at, (5,)), sentinels.due()])
        assert session._pending is not None
        lie = sentinels.check(RULE, session._pending.states(1))
        if lie is not None:
            return lie
    return None


def test_honest_roles_pass_every_step_and_every_sentinel(weights: MemoryWeights) -> None:
    made = prepare(weights, torch.float32, LENGTH, 2, seed=1)
    assert made[0].ids != made[1].ids
    sentinels = Sentinels(made, count())
    assert walked(LocalSession(weights, RULE, max_tokens=64), sentinels, 30) is None
    assert sentinels.checked == 2 * LENGTH + LENGTH // 2 + 30 - 2 * (1 + LENGTH // 2) - 1


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_comp_node_that_changes_what_it_gives_back_is_named(weights: MemoryWeights, liar: int) -> None:
    session = LocalSession(weights, RULE, max_tokens=64)
    norm = session.comp_nodes[liar]._stage
    honest = norm.run
    norm.run = lambda *given: 1.01 * honest(*given)  # type: ignore[method-assign]
    lie = walked(session, Sentinels(prepare(weights, torch.float32, LENGTH, 1, seed=2), count()), 30)
    assert lie is not None
    assert lie.roles == (liar,)  # type: ignore[attr-defined]


def test_a_lie_within_the_layers_leaves_those_who_may_have_told_it(weights: MemoryWeights) -> None:
    session = LocalSession(weights, RULE, max_tokens=64)
    liar = RULE.attn_role(1, 0)
    honest = session.attn_nodes[liar]._attend

    def changed(*given: object) -> object:
        return [(message, bytes(len(body))) for message, body in honest(*given)]  # type: ignore[arg-type]

    session.attn_nodes[liar]._attend = changed  # type: ignore[assignment, method-assign]
    lie = walked(session, Sentinels(prepare(weights, torch.float32, LENGTH, 1, seed=3), count()), 30)
    assert lie is not None
    assert liar in lie.roles  # type: ignore[attr-defined]
    assert len(lie.roles) == 4  # type: ignore[attr-defined]


def test_suspects_are_those_who_had_a_part_in_the_first_wrong_state() -> None:
    assert suspects(RULE, [2, 3, 8], range(12)) == (1,)
    assert suspects(RULE, [2, 4], range(6)) == (0, 1, RULE.attn_role(1, 0), RULE.attn_role(1, 1))
    assert suspects(RULE, [0], range(1)) == (0, RULE.attn_role(0, 0))
