"""What a role is sent is held against what is due; anything else is one sentence."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import torch

from muster.compress.raw import decode, encode
from muster.errors import MusterError, ProtocolViolation
from muster.model.conformance import MemoryWeights
from muster.model.stage import build_stage
from muster.private.attn_node import MAX_EARLY, AttnNode
from muster.private.comp_node import CompNode
from muster.private.network import PrivateNetwork, private_network
from muster.private.orders import NewTokens, attention_orders
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import (
    AttentionOrder,
    ForgetSequence,
    HiddenRows,
    PartialRows,
    PrivateMessage,
    ProjectedRows,
    RoleMessage,
)
from tests.model.families import CPU, dense_model

RULE = TokenShards(cluster=2, comp_nodes=2, shards=1)
ATTENDING = RULE.attn_role(0, 0)


@dataclass
class Desk:
    """One AttnNode, an order for four tokens, and the rows that its two CompNodes should send."""

    network: PrivateNetwork
    node: AttnNode = field(init=False)
    order: AttentionOrder = field(init=False)

    def __post_init__(self) -> None:
        self.node = AttnNode(ATTENDING, RULE, self.network.layers, torch.float32, max_tokens=4)
        (self.order,) = attention_orders(RULE, self.network.windows, [NewTokens(0, 0, 4)], 0, 0)

    def rows(self, comp: int, count: int = 2, value: float = 1.0, **changed: Any) -> tuple[ProjectedRows, Payload]:
        layer = self.network.layers[0]
        header, payload = encode(torch.full((count * (layer.query_values + layer.key_values),), value))
        mine = tuple(range(2 * comp, 2 * comp + 2))
        message = ProjectedRows(
            epoch=0, sender=comp, receiver=ATTENDING, step=0, layer=0, tensor=header, queries=mine, keys=mine
        )
        return msgspec.structs.replace(message, **changed), payload


@pytest.fixture(scope="module")
def weights() -> MemoryWeights:
    model = dense_model("llama")
    return MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())


@pytest.fixture
def desk(weights: MemoryWeights) -> Desk:
    return Desk(private_network(weights.config_json))


WRONG_ROWS: dict[str, tuple[Callable[[Desk], tuple[ProjectedRows, Payload]], str]] = {
    "another's": (
        lambda desk: desk.rows(0, queries=(0, 2)),
        "CompNode 0 sent query row 2, which is a row of CompNode 1",
    ),
    "another's keys": (
        lambda desk: desk.rows(1, keys=(2, 1)),
        "CompNode 1 sent key row 1, which is a row of CompNode 0",
    ),
    "out of range": (lambda desk: desk.rows(0, queries=(0, 9)), "query row 9 of 4, which does not exist"),
    "below range": (lambda desk: desk.rows(0, keys=(-1, 0)), "key row -1 of 4, which does not exist"),
    "twice in one": (lambda desk: desk.rows(0, queries=(1, 1)), "sent a query row twice"),
    "wrong shape": (lambda desk: desk.rows(0, count=1), "has shape"),
    "not a number": (lambda desk: desk.rows(0, value=float("nan")), "not finite numbers"),
    "infinite": (lambda desk: desk.rows(0, value=float("inf")), "not finite numbers"),
    "no such layer": (lambda desk: desk.rows(0, layer=3), "rows of layer 3; the model has 3"),
    "by the client": (
        lambda desk: desk.rows(0, sender=CLIENT),
        "The client sent a ProjectedRows, which its role forbids",
    ),
    "by an attn node": (lambda desk: desk.rows(0, sender=ATTENDING), "AttnNode 0.0 sent a ProjectedRows"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_rows_that_are_not_due_are_refused_and_change_nothing(desk: Desk, case: str) -> None:
    desk.node.handle(desk.order, b"")
    make, reason = WRONG_ROWS[case]
    with pytest.raises(ProtocolViolation, match=reason) as caught:
        desk.node.handle(*make(desk))
    assert str(caught.value).count(". ") == 0
    assert desk.node.handle(*desk.rows(0)) == []
    answers = desk.node.handle(*desk.rows(1))
    assert [message.receiver for message, _ in answers] == [0, 1]


def test_rows_that_come_twice_are_refused(desk: Desk) -> None:
    desk.node.handle(desk.order, b"")
    desk.node.handle(*desk.rows(0))
    with pytest.raises(ProtocolViolation, match="query row 0 twice"):
        desk.node.handle(*desk.rows(0))


def test_rows_that_come_before_the_order_wait_for_it_and_not_without_end(desk: Desk) -> None:
    assert desk.node.handle(*desk.rows(0)) == desk.node.handle(*desk.rows(1)) == []
    assert len(desk.node.handle(desk.order, b"")) == 2
    for _ in range(MAX_EARLY):
        desk.node.handle(*desk.rows(0, step=9))
    with pytest.raises(ProtocolViolation, match="steps that the client has not ordered"):
        desk.node.handle(*desk.rows(0, step=9))


def altered(order: AttentionOrder, **changed: Any) -> AttentionOrder:
    """With other fields of its only sequence."""
    return msgspec.structs.replace(order, sequences=(msgspec.structs.replace(order.sequences[0], **changed),))


WRONG_ORDERS: dict[str, tuple[Callable[[AttentionOrder], RoleMessage], str]] = {
    "by a comp node": (lambda order: msgspec.structs.replace(order, sender=1), "CompNode 1 sent a AttentionOrder"),
    "rows do not add up": (lambda order: altered(order, keys=3), "rows do not add up"),
    "a query without a range": (lambda order: altered(order, starts=((0, 0),)), "does not say for each query"),
    "keys of the future": (lambda order: altered(order, stops=((1, 2, 3, 9),)), "keys that are not here"),
    "forgotten by a comp node": (
        lambda order: ForgetSequence(epoch=0, sender=0, receiver=ATTENDING, sequence=0),
        "CompNode 0 sent a ForgetSequence",
    ),
}


@pytest.mark.parametrize("case", WRONG_ORDERS)
def test_orders_that_make_no_sense_are_refused(desk: Desk, case: str) -> None:
    make, reason = WRONG_ORDERS[case]
    with pytest.raises(ProtocolViolation, match=reason):
        desk.node.handle(make(desk.order), b"")  # type: ignore[arg-type]


def test_a_sequence_that_grows_beyond_what_was_agreed_is_refused(desk: Desk) -> None:
    (order,) = attention_orders(RULE, desk.network.windows, [NewTokens(0, 0, 5)], 0, 0)
    with pytest.raises(ProtocolViolation, match="more than the 4 tokens"):
        desk.node.handle(order, b"")


@pytest.fixture(scope="module")
def comp(weights: MemoryWeights) -> CompNode:
    stage = build_stage(weights, 0, 3, torch.float32, CPU, body=True)
    return CompNode(0, RULE, stage, lambda message, payload: None, wait_s=0.01)


def hidden(count: int = 2, value: float = 0.5, **changed: Any) -> tuple[HiddenRows, Payload]:
    header, payload = encode(torch.full((count, 32), value))
    message = HiddenRows(
        epoch=0, sender=CLIENT, receiver=0, step=0, tensor=header, positions=(0, 1), shards=(0, 0), ranks=(0, 1)
    )
    return msgspec.structs.replace(message, **changed), payload


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: hidden(positions=(0, 2)), "row of position 2, which is another's"),
        (lambda: hidden(positions=(-4, 1)), "row of position -4, which is another's"),
        (lambda: hidden(shards=(0, 1)), "position 1 is in shard 1, which it is not"),
        (lambda: hidden(ranks=(0,)), "without saying of each where it belongs"),
        (lambda: hidden(sender=1), "CompNode 1 sent hidden states, which only the client may"),
        (lambda: hidden(count=3), "has shape"),
        (lambda: hidden(value=float("nan")), "not finite numbers"),
        (hidden, "did not come within 0.01 s"),
    ],
)
def test_a_comp_node_refuses_what_is_not_its_own(
    comp: CompNode, made: Callable[[], tuple[HiddenRows, Payload]], reason: str
) -> None:
    with pytest.raises(MusterError, match=reason):
        comp.run(*made())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: {"queries": (0,)}, "AttnNode 0.0 answered with rows that are not due"),
        (lambda part: {"layer": 1}, "answered for another layer"),
        (lambda part: {"value": float("nan")}, "not finite numbers"),
    ],
)
def test_a_comp_node_refuses_parts_that_are_not_due(
    weights: MemoryWeights, change: Callable[[PartialRows], dict[str, Any]], reason: str
) -> None:
    node: CompNode
    attending = Desk(private_network(weights.config_json))
    (attending.order,) = attention_orders(RULE, attending.network.windows, [NewTokens(0, 0, 2)], 0, 0)
    attending.node.handle(attending.order, b"")

    def post(message: PrivateMessage, payload: Payload) -> None:
        assert isinstance(message, ProjectedRows)
        ((part, body),) = attending.node.handle(message, payload)
        assert isinstance(part, PartialRows)
        fields = change(part)
        if "value" in fields:
            body = encode(decode(part.tensor, body, 10**6) * fields.pop("value"))[1]  # type: ignore[arg-type]
        node.take(msgspec.structs.replace(part, **fields), body)

    node = CompNode(0, RULE, build_stage(weights, 0, 3, torch.float32, CPU, body=True), post, wait_s=1.0)
    with pytest.raises(ProtocolViolation, match=reason):
        node.run(*hidden())
