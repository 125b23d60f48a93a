"""One piece among others: in whatever order messages come, the step is the same; what does not fit is refused."""

from random import Random

import msgspec
import numpy as np
import pytest

from muster.errors import ProtocolViolation
from muster.model.graph.capture import capture
from muster.model.graph.pieces import evenly
from muster.train.graph.messages import (
    OUTSIDE,
    GradientMessage,
    Message,
    PackedArray,
    PieceStepped,
    SharedGradient,
    ValueMessage,
    decode_message,
    encode_message,
)
from muster.train.graph.network import LocalNetwork
from tests.model.graph.nets import made
from tests.train.graph.networks import arrays, network, sgd


def shuffled(cut: LocalNetwork, first: list[Message], random: Random) -> None:
    """Messages in any order, each perhaps twice."""
    waiting, done = list(first), 0
    while waiting:
        message = decode_message(encode_message(waiting.pop(random.randrange(len(waiting)))))
        if isinstance(message, PieceStepped):
            done += 1
        elif message.target != OUTSIDE:
            waiting += cut.sides[message.target].receive(message)
            if random.random() < 0.3:
                waiting += cut.sides[message.target].receive(message)
    assert done == len(cut.sides)


def test_the_order_in_which_messages_come_changes_no_bit() -> None:
    module, batch = made("two branches")
    captured, batches = capture(module, tuple(batch().values())), [batch() for _ in range(3)]
    cuts = [network(captured, evenly(captured, 4), sgd(0.1), microbatches=3) for _ in range(4)]
    inputs = [arrays(captured, one) for one in batches]
    for seed, cut in enumerate(cuts):
        first: list[Message] = [
            ValueMessage(OUTSIDE, side.piece.index, 0, one.name, PackedArray.of(values[one.name]), microbatch=number)
            for number, values in enumerate(inputs)
            for side in cut.sides
            for one in side.piece.inputs
            if one.name in values
        ]
        shuffled(cut, first, Random(seed))
    for other in cuts[1:]:
        # Sums over microbatches are in the order in which these come back.
        for key, value in cuts[0].weights().items():
            assert other.weights()[key] == pytest.approx(value, abs=1e-7)
    assert {side.step for cut in cuts for side in cut.sides} == {1}


def test_messages_that_do_not_fit_are_refused_and_change_nothing() -> None:
    module, batch = made("two branches")
    captured = capture(module, tuple(batch().values()))
    cut = network(captured, evenly(captured, 2), sgd(0.1))
    side, name = cut.sides[0], cut.sides[0].piece.inputs[0].name
    good = ValueMessage(OUTSIDE, 0, 0, name, PackedArray.of(np.zeros((3, 16), "float32")), microbatch=0)
    for change, said in (
        ({"target": 1}, "somebody else"),
        ({"step": 1}, "hears of 1"),
        ({"microbatch": 1}, "no microbatch 1"),
        ({"microbatch": -1}, "no microbatch"),
        ({"name": "nothing"}, "does not have"),
        ({"packed": PackedArray.of(np.zeros((2, 16), "float32"))}, "belongs"),
        ({"packed": PackedArray.of(np.zeros((3, 16), "float64"))}, "belongs"),
        ({"packed": PackedArray("float32", (3, 16), b"short")}, "5 bytes"),
    ):
        with pytest.raises(ProtocolViolation, match=said):
            list(side.receive(msgspec.structs.replace(good, **change)))
    for message, said in (
        (GradientMessage(1, 0, 0, name, good.packed, microbatch=0), "wants no gradient"),
        (SharedGradient(1, 0, 0, "left.weight", good.packed), "shares no parameter"),
    ):
        with pytest.raises(ProtocolViolation, match=said):
            list(side.receive(message))
    cut.step([arrays(captured, batch())])
    with pytest.raises(ProtocolViolation, match="no message"):
        decode_message(encode_message(good)[:-3])
    with pytest.raises(ProtocolViolation, match="cannot be"):
        PackedArray("float32", (-1,), b"").array()
