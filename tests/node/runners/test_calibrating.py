"""The calibration text goes through a ring of runners, raw and packed, and strangers cannot take part."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from muster.compress.registry import PLAIN, make_coder
from muster.errors import ProtocolViolation
from muster.model.batch import Batch
from muster.node.runners.base import Cheated, Runner, RunnerVitals, Send
from muster.node.runners.serve.calibrating import CalibratingFirst, CalibratingLater, StageParts
from muster.node.runners.serve.ring import RingPlace
from muster.node.runners.thread import ComputeThread
from muster.spec.codec import Codec
from muster.wire.messages.calibrate import Calibrate, Calibrated, CheckCodecs, CodecsChecked
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import Cancel, Row
from tests.serve.fake_stage import FakeCache

HEAD, NODES = "0" * 64, ("1" * 64, "2" * 64, "3" * 64)
HIDDEN, VOCABULARY, IN_FLIGHT = 96, 50, 3
TEXT = tuple((7 * i + i * i) % VOCABULARY for i in range(150))


def weights(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Layer:
    """A network without attention: enough to tell packed hidden states from raw ones."""

    hidden_size, vocab_size, dtype, device = HIDDEN, VOCABULARY, torch.float32, torch.device("cpu")

    def __init__(self, index: int, noise: float = 0.0) -> None:
        self.is_first, self.is_last = index == 0, index == 2
        self._index = index
        self.rows: list[tuple[int, ...]] = []

    def run(self, batch: Batch, cache: FakeCache, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        self.rows.append(batch.query_lengths)
        hidden_TH = weights(9, VOCABULARY, HIDDEN)[x] if self.is_first else x
        hidden_TH = hidden_TH + torch.tanh(hidden_TH @ weights(self._index, HIDDEN, HIDDEN))
        if self.is_last:
            assert batch.scored_rows_C is not None
            look((0.02 * hidden_TH @ weights(8, VOCABULARY, HIDDEN).t())[batch.scored_rows_C])
        return hidden_TH


class Serving:
    """What a stage does once the check is over."""

    def __init__(self) -> None:
        self.heard: list[AnyMessage] = []

    def receive(self, peer: str, message: Any, payload: Any, reply: Send) -> None:
        self.heard.append(message)

    def forget(self, reply: Send) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()

    def vitals(self) -> RunnerVitals:
        return RunnerVitals()

    async def close(self) -> None: ...


class CodedRing:
    """Three runners that hear each other at once."""

    def __init__(self, codec: str) -> None:
        coder = make_coder(Codec(codec))
        self.sent: list[tuple[AnyMessage, int]] = []
        self.found: list[AnyMessage] = []
        self.runners: list[Runner] = []
        self.inner = [Serving() for _ in NODES]
        for index, node in enumerate(NODES):
            place = RingPlace(
                1, HEAD, NODES[index - 1], self._sender(index), NODES[0], index == 2, None, max_steps=IN_FLIGHT
            )
            kind = CalibratingLater if index else CalibratingFirst
            incoming = coder if index else PLAIN
            parts = StageParts(Layer(index), FakeCache(20, 8), 20, 16, 64, incoming, coder)
            self.runners.append(kind(self.inner[index], place, parts, ComputeThread(1, lambda: 1.0)))
            assert node

    def _sender(self, index: int) -> Send:
        def send(message: AnyMessage, payload: Any) -> None:
            self.sent.append((message, len(payload)))
            target = (index + 1) % len(NODES)
            self.runners[target].receive(NODES[index], message, bytes(payload), lambda *_: None)  # type: ignore[arg-type]

        return send

    def ask(self, tokens: tuple[int, ...] = TEXT, peer: str = HEAD) -> None:
        self.runners[0].receive(peer, CheckCodecs(epoch=1, tokens=tokens), b"", lambda m, _: self.found.append(m))

    async def check(self) -> CodecsChecked:
        running = [asyncio.ensure_future(runner.run()) for runner in self.runners]
        self.ask()
        while not self.found and not any(task.done() for task in running):
            await asyncio.sleep(0.002)
        for task in running:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        (found,) = self.found
        assert isinstance(found, CodecsChecked)
        return found


def checked(codec: str) -> tuple[CodecsChecked, CodedRing]:
    async def body() -> tuple[CodecsChecked, CodedRing]:
        ring = CodedRing(codec)
        return await asyncio.wait_for(ring.check(), 20), ring

    return asyncio.run(body())


def test_a_codec_that_loses_nothing_changes_nothing() -> None:
    found, ring = checked("fp32")
    assert (found.positions, found.agreed) == (len(TEXT), len(TEXT))
    assert found.divergence == pytest.approx(0.0, abs=1e-6)
    hidden = [message for message, _ in ring.sent if isinstance(message, Calibrate)]
    assert {message.hidden.codec for message in hidden if message.hidden and message.raw} == {"raw"}
    assert {message.hidden.codec for message in hidden if message.hidden and not message.raw} == {"fp32"}


def test_the_more_a_codec_loses_the_more_it_changes() -> None:
    found = [checked(codec)[0] for codec in ("bf16", "int8", "int4")]
    assert found[0].divergence < found[1].divergence < found[2].divergence
    assert found[0].agreed >= found[1].agreed >= found[2].agreed
    assert found[2].agreed < len(TEXT)


def test_no_more_pieces_are_on_their_way_than_steps_may_be() -> None:
    _, ring = checked("int8")
    waiting, most = 0, 0
    for message, _ in ring.sent:
        waiting += isinstance(message, Calibrate) and message.hidden is not None and not message.raw
        most = max(most, waiting)
        waiting -= 2 * isinstance(message, Calibrated)  # sent by two stages each
    assert 0 < most <= 2 * IN_FLIGHT


def test_what_comes_once_requests_have_been_served_is_refused() -> None:
    ring = CodedRing("int8")
    ring.runners[0].receive(HEAD, Cancel(epoch=1, request_id="a"), b"", lambda *_: None)
    with pytest.raises(ProtocolViolation):
        ring.ask()
    assert ring.inner[0].heard == [Cancel(epoch=1, request_id="a")]


@pytest.mark.parametrize("tokens", [(), (VOCABULARY,), (-1,), (0,) * 2000])
def test_a_text_that_is_none_of_the_model_is_refused(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolViolation, match="none of this model"):
        CodedRing("int8").ask(tokens)


def test_only_the_head_may_ask_and_only_the_stage_before_may_send() -> None:
    ring, row = CodedRing("int8"), Row(slot=0, start=0, length=1, pages=(0,), samples=0, scores=1)
    with pytest.raises(ProtocolViolation):
        ring.ask(peer=NODES[1])
    for index, message in ((0, Calibrated(epoch=1, number=1, agreed=0, divergence=0.0)), (1, piece(0, row))):
        for peer in (HEAD, NODES[1]):
            with pytest.raises(ProtocolViolation):
                ring.runners[index].receive(peer, message, b"", lambda *_: None)


def piece(number: int, row: Row, raw: bool = True) -> Calibrate:
    header, _ = PLAIN.encode(torch.zeros(row.length, HIDDEN))
    return Calibrate(epoch=1, number=number, row=row, raw=raw, hidden=header)


@pytest.mark.parametrize(
    ("number", "row", "raw"),
    [
        (1, Row(0, 0, 2, (0,), 0, 2), True),  # out of order
        (0, Row(0, 0, 2, (0,), 0, 1), True),  # not all of it scored
        (0, Row(0, 0, 2, (99,), 0, 2), True),  # outside the cache
        (0, Row(0, 0, 2, (0,), 0, 2), False),  # without its raw one
        (0, Row(0, 0, 17, (0, 1, 2), 0, 17), True),  # longer than the workspace
    ],
)
def test_a_piece_that_makes_no_sense_ends_the_stage_and_blames_the_sender(number: int, row: Row, raw: bool) -> None:
    async def body() -> None:
        last = CodedRing("int8").runners[2]
        last.receive(NODES[1], piece(number, row, raw), bytes(4 * HIDDEN * row.length), lambda *_: None)
        with pytest.raises(Cheated) as caught:
            await asyncio.wait_for(last.run(), 5)
        assert caught.value.peer == NODES[1]

    asyncio.run(body())


def test_more_pieces_than_may_be_on_their_way_are_refused() -> None:
    last, row = CodedRing("int8").runners[2], Row(0, 0, 1, (0,), 0, 1)
    for number in range(2 * IN_FLIGHT):
        last.receive(NODES[1], piece(number, row), b"", lambda *_: None)
    with pytest.raises(ProtocolViolation, match="wait here"):
        last.receive(NODES[1], piece(9, row), b"", lambda *_: None)
