import contextlib
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.errors import FrameTooLarge, MalformedFrame, ProtocolViolation, VersionMismatch
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.wire.frame import CHANNEL_LIMITS, MAGIC, PREFIX, Frame, FrameDecoder, Limits, encode
from muster.wire.messages.base import PROTOCOL, TensorHeader
from muster.wire.messages.generate import Admit, Row, Step, Submit
from muster.wire.messages.membership import Goodbye
from muster.wire.messages.transfer import Blob, FetchBlob, Ping
from tests.examples import examples

DATA = CHANNEL_LIMITS["data"]
SMALL = Limits(header_bytes=4096, payload_bytes=4096)
STEP = Step(
    epoch=3,
    sequence=7,
    rows=(Row(1, 0, 4, (5, 6), 1),),
    admit=(Admit(1, (1, 2, 3, 4), 4, Sampling(temperature=0.5, logit_bias={3: 1.0})),),
    hidden=TensorHeader(dtype="float32", shape=(4, 8)),
)
FRAMES = [
    (STEP, bytes(128)),
    (Submit(epoch=1, request=Request(id="r", prompt=(1, 2))), b""),
    (Goodbye(), b""),
    (Blob(digest="d", offset=0, total_bytes=5), b"hello"),
]


def wire(frames: list[tuple[object, bytes]] = FRAMES) -> bytes:
    return b"".join(bytes(part) for message, payload in frames for part in encode(message, payload))  # type: ignore[arg-type]


def decode_in_pieces(data: bytes, pieces: list[int], limits: Limits = DATA) -> list[Frame]:
    decoder, frames, at = FrameDecoder(limits), [], 0
    for size in [*pieces, len(data)]:
        frames += decoder.feed(data[at : at + size])
        at += size
    decoder.finish()
    return frames


@given(st.lists(st.integers(1, 40), max_size=200))
def test_frames_survive_any_cut_of_the_stream(pieces: list[int]) -> None:
    assert [(m, bytes(p)) for m, p in decode_in_pieces(wire(), pieces)] == FRAMES


def test_every_single_split_point_gives_the_same_frames() -> None:
    data = wire()
    for at in range(len(data)):
        assert len(decode_in_pieces(data, [at])) == len(FRAMES)


def test_a_payload_is_passed_to_the_socket_without_a_copy() -> None:
    payload = bytearray(1000)
    buffers = encode(Ping(token=1), payload)
    payload[3] = 7
    assert len(buffers) == 2
    assert buffers[1][3] == 7


def test_a_received_payload_belongs_to_the_receiver() -> None:
    [(_, payload)] = FrameDecoder(DATA).feed(wire([(Ping(token=1), b"abc")]))
    payload[0] = 0
    assert bytes(payload) == b"\0bc"


@given(st.binary(max_size=300))
@example(MAGIC)
def test_random_bytes_never_do_more_than_break_the_stream(data: bytes) -> None:
    decoder = FrameDecoder(DATA)
    try:
        assert decoder.feed(data) == []
    except ProtocolViolation as error:
        with pytest.raises(type(error)):
            decoder.feed(wire())


@given(st.data())
@examples(400)
def test_a_mutated_frame_decodes_or_breaks_the_stream_but_nothing_else(data: st.DataObject) -> None:
    stream = bytearray(wire())
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    decoder = FrameDecoder(SMALL)
    with contextlib.suppress(ProtocolViolation):
        decoder.feed(stream)
        decoder.finish()


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_as_header_are_a_message_or_malformed(header: bytes) -> None:
    stream = PREFIX.pack(MAGIC, PROTOCOL, 0, len(header), 0) + header
    decoder = FrameDecoder(SMALL)
    with contextlib.suppress(MalformedFrame):
        assert len(decoder.feed(stream)) == 1


@given(st.integers(0, len(wire()) - 1))
def test_a_truncated_stream_yields_whole_frames_and_then_says_so(length: int) -> None:
    data = wire()
    ends = {len(wire(FRAMES[:count])) for count in range(len(FRAMES))}
    decoder = FrameDecoder(DATA)
    frames = decoder.feed(data[:length])
    assert [m for m, _ in frames] == [m for m, _ in FRAMES[: len(frames)]]
    if length in ends:
        decoder.finish()
    else:
        with pytest.raises(MalformedFrame, match="middle of a frame"):
            decoder.finish()


def test_frames_before_a_bad_one_are_still_delivered() -> None:
    decoder = FrameDecoder(DATA)
    assert len(decoder.feed(wire() + b"x" * 16)) == len(FRAMES)
    with pytest.raises(MalformedFrame):
        decoder.check()
    with pytest.raises(MalformedFrame):
        decoder.feed(b"")


def test_a_deeply_nested_header_is_malformed_not_a_stack_overflow() -> None:
    header = b"\x91" * 4000 + b"\xc0"
    with pytest.raises(MalformedFrame):
        FrameDecoder(SMALL).feed(PREFIX.pack(MAGIC, PROTOCOL, 0, len(header), 0) + header)
    ignored = msgspec.msgpack.encode({"type": "goodbye"})[:-8] + b"\xa5goodbye"
    with pytest.raises(MalformedFrame):
        FrameDecoder(SMALL).feed(PREFIX.pack(MAGIC, PROTOCOL, 0, len(ignored), 0) + ignored)


@pytest.mark.parametrize("unknown", [{"type": "nonsense"}, {"type": "ping", "token": 1, "extra": 2}, {"type": "ping"}])
def test_a_message_outside_the_protocol_is_malformed(unknown: dict[str, object]) -> None:
    header = msgspec.msgpack.encode(unknown)
    with pytest.raises(MalformedFrame):
        FrameDecoder(SMALL).feed(PREFIX.pack(MAGIC, PROTOCOL, 0, len(header), 0) + header)


def test_another_protocol_is_named_with_both_versions_and_the_remedy() -> None:
    with pytest.raises(VersionMismatch, match=f"protocol 77 .* protocol {PROTOCOL}; install the same version"):
        FrameDecoder(SMALL).feed(PREFIX.pack(MAGIC, 77, 9, 2**32 - 1, 2**32 - 1))


@pytest.mark.parametrize(("header", "payload"), [(4097, 0), (2**32 - 1, 0), (10, 4097), (10, 2**32 - 1)])
def test_a_length_over_the_limit_is_refused_before_anything_is_allocated(header: int, payload: int) -> None:
    decoder = FrameDecoder(SMALL)
    prefix = PREFIX.pack(MAGIC, PROTOCOL, 0, header, payload)
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge, match="limit"):
            decoder.feed(prefix)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_memory_follows_what_arrived_not_what_was_announced() -> None:
    frame = wire([(Ping(token=1), bytes(200 * 1024 * 1024))])[:65536]
    decoder = FrameDecoder(DATA)
    tracemalloc.start()
    try:
        decoder.feed(frame)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(frame)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "dense",
    [
        {"type": "step", "epoch": 0, "sequence": 0, "rows": [], "admit": [[0, [], 0, {}]] * 9000},
        {"type": "step", "epoch": 0, "sequence": 0, "rows": [[0, 0, 0, [], 1]] * 9000},
        {"type": "step", "epoch": 0, "sequence": 0, "rows": [], "copies": [[0, 0]] * 18000},
        {"type": "step", "epoch": 0, "sequence": 0, "rows": [], "guesses": [[0]] * 18000},
        {"type": "step_done", "epoch": 0, "sequence": 0, "sampled": [{"token": 0}] * 6000},
    ],
)
def test_a_dense_header_decodes_into_a_bounded_multiple_of_its_bytes(dense: dict[str, object]) -> None:
    header = msgspec.msgpack.encode(dense)
    stream = PREFIX.pack(MAGIC, PROTOCOL, 0, len(header), 0) + header
    decoder = FrameDecoder(DATA)
    tracemalloc.start()
    try:
        assert len(decoder.feed(stream)) == 1
        assert tracemalloc.get_traced_memory()[1] < 80 * len(header)
    finally:
        tracemalloc.stop()


def test_the_sender_hears_of_a_frame_that_is_too_large() -> None:
    with pytest.raises(FrameTooLarge, match="payload of 1 bytes"):
        encode(FetchBlob(digest="", offset=0, length=1), b"x", CHANNEL_LIMITS["control"])
