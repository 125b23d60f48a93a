"""Bytes are those of the formula, and each layer is one round trip."""

from collections import Counter

import pytest

from muster.model.conformance import MemoryWeights
from muster.private.client import NewIds
from muster.private.local import LocalSession
from muster.private.network import private_network
from muster.private.traffic import layer_bytes, rounds, step_bytes
from muster.spec.token_shards import TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import AttentionOrder, HiddenRows, PartialRows, PrivateMessage, ProjectedRows
from tests.model.families import dense_model


@pytest.mark.parametrize("family", ["llama", "deepseek-v3"])
def test_payloads_are_those_of_the_formula_and_each_layer_asks_once(family: str) -> None:
    model = dense_model(family)
    weights = MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())
    seen: list[tuple[PrivateMessage, int]] = []

    def watch(message: PrivateMessage, payload: Payload) -> None:
        seen.append((message, memoryview(payload).nbytes))

    rule = TokenShards(2, 2, 3)
    session = LocalSession(weights, rule, watch=watch)
    layers = private_network(weights.config_json).layers
    for tokens, start in ((9, 0), (1, 9)):
        seen.clear()
        session.step([NewIds(0, start, tuple(range(3, 3 + tokens)))])
        assert sum(size for _, size in seen) == step_bytes(rule, layers, tokens, 4, session.client.ends.hidden_size)
        for index, layer in enumerate(layers):
            of_layer = [
                (message, size)
                for message, size in seen
                if isinstance(message, ProjectedRows | PartialRows) and message.layer == index
            ]
            assert sum(size for _, size in of_layer) == layer_bytes(rule, layer, tokens, 4)
            # No role is sent rows of a layer twice by the same one, nor answers twice: one round trip.
            assert max(Counter((m.sender, m.receiver) for m, _ in of_layer).values()) == 1
        assert {type(message) for message, _ in seen} == {AttentionOrder, HiddenRows, PartialRows, ProjectedRows}
    assert rounds(layers) == len(layers) + 1


def test_the_formula_is_that_of_the_paper_where_all_heads_have_their_own_keys() -> None:
    layers = private_network(dense_model("gpt2").config.to_json_string(use_diff=False)).layers
    rule = TokenShards(1, 2, 5)
    assert layer_bytes(rule, layers[0], 7, 4) == 5 * 7 * (4 * 32 + 2 * 4) * 4
