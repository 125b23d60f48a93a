"""Changes of hidden states: both ends remember the same after every message, and find each other again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from muster.compress.adaptive import AdaptiveTopK, byte_ratios
from muster.compress.delta import CHANGE, FULL, KEPT, DeltaReceiver, DeltaSender
from muster.compress.remembered import RememberedTexts
from muster.errors import InvalidRequest, MachineTrouble, MalformedFrame, OutOfStep, ProtocolViolation
from muster.wire.messages.base import TensorHeader

TOKENS, HIDDEN, MOST = 6, 40, 2**24
BUFFERS = ("fp32", "fp16", "bf16", "int8", "int4")


class Link:
    def __init__(self, bits: int = 4, buffers: str = "fp16", sends: int = 2**30, receives: int = 2**30) -> None:
        self.sender = DeltaSender(bits, RememberedTexts(buffers, sends))
        self.receiver = DeltaReceiver(bits, RememberedTexts(buffers, receives))
        self.resent = 0

    def carry(self, tensor: Tensor, texts: list[int], lost: bool = False) -> Tensor | None:
        header, payload = self.sender.encode(tensor, texts)
        if lost:
            return None
        try:
            return self.receiver.decode(header, bytes(payload), texts, MOST)
        except OutOfStep:
            self.resent += 1
            header, payload = self.sender.resend(texts)
            assert payload[0] == KEPT
            return self.receiver.decode(header, bytes(payload), texts, MOST)

    def agree(self, texts: list[int]) -> bool:
        return self.sender.remembered.digests(texts) == self.receiver.remembered.digests(texts)


def hidden(text: int, visit: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of one text: it changes less and less."""
    first = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(text))
    change = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1000 * text + visit + 1))
    return (first + change * 0.1 / (1 + visit)).to(dtype)


def message(texts: list[int], visit: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.stack([hidden(text, visit, dtype) for text in texts])


@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ends_remember_the_same_after_every_message(buffers: str, dtype: torch.dtype) -> None:
    link = Link(buffers=buffers)
    order = torch.Generator().manual_seed(0)
    for visit in range(8):
        for pair in torch.randperm(10, generator=order).view(5, 2).tolist():
            back = link.carry(message(pair, visit, dtype), pair)
            assert back is not None
            assert back.dtype == dtype
            assert link.agree(pair)
    assert link.resent == 0
    for one in (link.sender, link.receiver):
        one.remembered.check()


def test_a_thousand_messages_leave_both_ends_equal_to_the_bit() -> None:
    link, order = Link(bits=2), torch.Generator().manual_seed(3)
    for count in range(1000):
        text = int(torch.randint(0, 20, (1,), generator=order))
        link.carry(message([text], count), [text])
    assert link.agree(list(range(20)))
    assert len(link.receiver.remembered) == 20
    assert link.resent == 0


def test_what_arrives_comes_nearer_to_the_value_with_each_visit() -> None:
    link = Link(bits=2, buffers="fp32")
    errors = [float((link.carry(message([1], 0 if v == 0 else 3), [1]) - message([1], 3)).norm()) for v in range(6)]
    assert errors[2] < errors[0]
    assert errors[5] < 0.1 * errors[0]


def test_the_first_visit_goes_in_full_and_later_ones_in_few_bits() -> None:
    link, texts = Link(), [3, 4]
    sizes = [len(link.sender.encode(message(texts, visit), texts)[1]) for visit in range(3)]
    kinds = [link.sender.encode(message(texts, visit), texts)[1][0] for visit in range(2)]
    values = 2 * TOKENS * HIDDEN
    assert sizes == [1 + 32 + 4 * values, *[1 + 32 + values // 2 + 2 * HIDDEN] * 2]
    assert kinds == [CHANGE, CHANGE]
    assert link.sender.encode(message([3, 9], 0), [3, 9])[1][0] == FULL


def test_a_lost_message_is_made_good_at_the_next_visit() -> None:
    link = Link()
    for visit in range(2):
        link.carry(message([1, 2], visit), [1, 2])
    link.carry(message([1, 2], 2), [1, 2], lost=True)
    assert not link.agree([1, 2])
    back = link.carry(message([1, 2], 3), [1, 2])
    assert link.resent == 1
    assert link.agree([1, 2])
    assert float((back - message([1, 2], 3)).abs().max()) < 0.1
    link.carry(message([1, 2], 4), [1, 2])
    assert link.resent == 1


@pytest.mark.parametrize("moved", ["sender", "receiver"])
@pytest.mark.parametrize("buffers", BUFFERS)
def test_an_end_that_moved_is_brought_up_to_date(moved: str, buffers: str) -> None:
    link = Link(buffers=buffers)
    for visit in range(2):
        link.carry(message([1, 2], visit), [1, 2])
    getattr(link, moved).remembered.forget()
    link.carry(message([2, 1], 2), [2, 1])
    assert link.agree([1, 2])
    assert link.resent == (moved == "receiver")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_lost_or_forgotten_both_ends_agree_after_each_message_that_arrives(data: st.DataObject) -> None:
    link = Link(
        buffers=data.draw(st.sampled_from(BUFFERS)), sends=4000, receives=data.draw(st.sampled_from((700, 4000)))
    )
    for visit in range(data.draw(st.integers(1, 12))):
        texts = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
        event = data.draw(st.sampled_from(("arrives", "arrives", "lost", "sender moves", "receiver moves")))
        if event.endswith("moves"):
            getattr(link, event.split()[0]).remembered.forget()
        back = link.carry(message(texts, visit), texts, lost=event == "lost")
        if back is not None:
            assert float((back - message(texts, visit)).abs().max()) < 0.5
            last = texts[-1:]
            assert link.agree(last)
    for one in (link.sender, link.receiver):
        one.remembered.check()


def test_what_is_longest_unused_is_forgotten_where_memory_is_bounded() -> None:
    each = 4 * TOKENS * HIDDEN
    link = Link(buffers="fp32", sends=3 * each, receives=3 * each)
    for text in (1, 2, 3, 1, 4):
        link.carry(message([text], 0), [text])
    assert [link.sender.remembered.get(text) is not None for text in (1, 2, 3, 4)] == [True, False, True, True]
    assert link.sender.remembered.nbytes == 3 * each
    assert link.agree([1, 2, 3, 4])


def test_what_is_no_number_is_not_sent_and_not_remembered() -> None:
    link = Link()
    link.carry(message([1], 0), [1])
    before = link.sender.remembered.digests([1])
    bad = message([1], 1)
    bad[0, 0, 0] = float("nan")
    with pytest.raises(MachineTrouble):
        link.sender.encode(bad, [1])
    assert link.sender.remembered.digests([1]) == before


@given(
    codec=st.sampled_from(("aq-4", "channel-4", "")),
    dtype=st.sampled_from(("float32", "bfloat16", "int8", "")),
    shape=st.one_of(st.just((2, TOKENS, HIDDEN)), st.lists(st.integers(-1, 2**62), max_size=9).map(tuple)),
    kind=st.integers(0, 4),
    body=st.binary(max_size=300),
)
def test_no_message_crashes_a_receiver_or_changes_what_it_remembers(
    codec: str, dtype: str, shape: tuple[int, ...], kind: int, body: bytes
) -> None:
    link = Link()
    link.carry(message([1, 2], 0), [1, 2])
    before = link.receiver.remembered.digests([1, 2])
    header = TensorHeader(dtype=dtype, shape=shape, codec=codec)
    with pytest.raises(ProtocolViolation):
        link.receiver.decode(header, bytes([kind]) + before + body, [1, 2], 4096)
    assert link.receiver.remembered.digests([1, 2]) == before


def test_a_text_that_nobody_remembers_cannot_be_sent_again() -> None:
    with pytest.raises(OutOfStep, match="redone"):
        Link().sender.resend([1])


def test_only_links_that_hold_up_the_stages_send_fewer_values() -> None:
    assert byte_ratios([0.1, 1.0, 4.0, 8.0], stage_s=0.5, ratio=20) == [1.0, 2.5, 10.0, 20.0]
    assert byte_ratios([0.1, 0.4], stage_s=0.5, ratio=20) == [1.0, 1.0]
    assert byte_ratios([], stage_s=0.5, ratio=20) == []
    with pytest.raises(InvalidRequest):
        byte_ratios([1.0], 0.5, 0.5)


@pytest.mark.parametrize("ratio", [1, 2, 5, 10, 30, 100, 1000])
def test_a_link_that_adapts_shrinks_its_bytes_by_what_it_is_told(ratio: float) -> None:
    tensor, ends = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)), [AdaptiveTopK(), AdaptiveTopK()]
    ends[0].shrink(ratio)
    header, payload = ends[0].encode(tensor)
    assert tensor.nbytes / len(payload) == pytest.approx(ratio, rel=0.02)
    back = ends[1].decode(header, payload, MOST)
    assert torch.equal(back, tensor) if ratio == 1 else int((back != 0).sum()) > 0
    with pytest.raises(MalformedFrame):
        ends[1].decode(TensorHeader(dtype="float32", shape=(1,), codec="int8"), b"", MOST)
