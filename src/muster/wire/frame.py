"""Cuts a stream of bytes into messages and back, sans-IO. Knows nothing of sockets, clocks or what a message means.

A frame, all integers big-endian:

    bytes  0..3    magic "MSTR"
           4..5    protocol version              these six bytes keep their meaning in every version
           6..7    reserved, zero
           8..11   length of the header
          12..15   length of the payload
          16..     header: one message in msgpack, tagged by its `type`
           ..      payload: raw bytes that the message describes (a tensor, part of a blob), often empty

Both lengths are held against the limits of the channel before a byte is allocated, and buffers grow only with bytes
that really arrived: a peer that announces much and sends little costs little.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import msgspec

from muster.errors import FrameTooLarge, MalformedFrame, ProtocolViolation, VersionMismatch
from muster.wire.messages.base import PROTOCOL
from muster.wire.messages.every import AnyMessage

MAGIC = b"MSTR"
PREFIX = Struct("!4sHHII")

Payload = bytes | bytearray | memoryview
"""Anything with bytes in it that a frame may carry."""

Frame = tuple[AnyMessage, memoryview]
"""A message and its payload. The payload is writable and belongs to the receiver."""

_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one frame of a channel may hold.

    Python objects are larger than msgpack: a header decodes into at most some 80 times its bytes (tested).
    """

    header_bytes: int
    payload_bytes: int


CHANNEL_LIMITS: dict[str, Limits] = {
    # Strangers reach this one before they have shown a proof.
    "control": Limits(header_bytes=256 * _KIB, payload_bytes=0),
    # The header holds page tables of a whole batch, or prompts: 8 MiB are 1.7 million token ids.
    "data": Limits(header_bytes=8 * _MIB, payload_bytes=256 * _MIB),
    "bulk": Limits(header_bytes=64 * _KIB, payload_bytes=32 * _MIB),
    # Answers to the largest exercises of `verify`.
    "proof": Limits(header_bytes=4 * _KIB, payload_bytes=4 * _MIB),
    # Carries whole frames of the data channel, so it holds a little more than one of them.
    "relay": Limits(header_bytes=64 * _KIB, payload_bytes=PREFIX.size + (8 + 256) * _MIB),
}
"""The channels that exist between two nodes. A stream with any other name is refused."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage, payload: Payload = b"", limits: Limits | None = None) -> list[Payload]:
    """The buffers of one frame, in order; the payload is not copied. Raises `FrameTooLarge` where `limits` say so."""
    header = _encoder.encode(message)
    body = memoryview(payload).cast("B")
    if limits is not None:
        _check_lengths(len(header), body.nbytes, limits)
    start = PREFIX.pack(MAGIC, PROTOCOL, 0, len(header), body.nbytes) + header
    return [start, body] if body.nbytes else [start]


def frame_bytes(message: AnyMessage, payload: Payload = b"") -> int:
    """Of the frame that `encode` makes."""
    return PREFIX.size + len(_encoder.encode(message)) + memoryview(payload).nbytes


class FrameDecoder:
    """Feed it bytes as they come; it gives back the frames they complete. An error is final."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._partial = bytearray()
        """Of the part that is being read: prefix, header or payload."""
        self._payload_bytes: int | None = None
        self._message: AnyMessage | None = None
        self._wanted = PREFIX.size
        self._error: ProtocolViolation | None = None

    @property
    def missing(self) -> int:
        """Bytes still missing from the part that is being read. At least 1."""
        return self._wanted - len(self._partial)

    def feed(self, data: Payload) -> list[Frame]:
        """Frames that `data` completes. Raises a `ProtocolViolation`, but only once the frames before it are out."""
        self.check()
        frames: list[Frame] = []
        try:
            for frame in self._frames(memoryview(data).cast("B")):
                frames.append(frame)  # noqa: PERF402 - what came before an error must not be lost
        except ProtocolViolation as error:
            self._error = error
            self._partial = bytearray()
            if not frames:
                raise
        return frames

    def check(self) -> None:
        """Raise the `ProtocolViolation` that ended this stream, if one did."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """The stream has ended: raise `MalformedFrame` if it ended inside a frame."""
        self.check()
        if self._partial or self._payload_bytes is not None:
            raise MalformedFrame("The stream ended in the middle of a frame; the peer stopped while it was sending.")

    def _frames(self, data: memoryview) -> Iterator[Frame]:
        while data:
            taken = data[: self.missing]
            self._partial += taken
            data = data[len(taken) :]
            while not self.missing:
                frame = self._complete_part()
                if frame is not None:
                    yield frame

    def _complete_part(self) -> Frame | None:
        part, self._partial = self._partial, bytearray()
        if self._payload_bytes is None:
            self._wanted, self._payload_bytes = _parse_prefix(part, self._limits)
            return None
        if self._message is None:
            self._message = _parse_header(part)
            self._wanted = self._payload_bytes
            if self._payload_bytes:
                return None
            part = bytearray()
        message, self._message, self._payload_bytes, self._wanted = self._message, None, None, PREFIX.size
        return message, memoryview(part)


def _parse_prefix(part: bytearray, limits: Limits) -> tuple[int, int]:
    """Lengths of header and payload, both within `limits`."""
    magic, protocol, reserved, header_bytes, payload_bytes = PREFIX.unpack(part)
    if magic != MAGIC:
        raise MalformedFrame("What arrived is not a Muster frame; check that the address is that of a Muster node.")
    if protocol != PROTOCOL:
        raise VersionMismatch(
            f"The peer speaks protocol {protocol} and this node speaks protocol {PROTOCOL}; "
            "install the same version of Muster on both machines."
        )
    if reserved or not header_bytes:
        raise MalformedFrame("A frame's first bytes make no sense; the peer is broken or runs changed code.")
    _check_lengths(header_bytes, payload_bytes, limits)
    return header_bytes, payload_bytes


def _check_lengths(header_bytes: int, payload_bytes: int, limits: Limits) -> None:
    _check_length("header", header_bytes, limits.header_bytes)
    _check_length("payload", payload_bytes, limits.payload_bytes)


def _check_length(what: str, length: int, limit: int) -> None:
    if length > limit:
        raise FrameTooLarge(
            f"A frame's {what} of {length} bytes is over this channel's limit of {limit} bytes; send smaller pieces."
        )


def _parse_header(part: bytearray) -> AnyMessage:
    try:
        return _decoder.decode(part)
    except msgspec.ValidationError as error:
        raise MalformedFrame(f"A message does not follow the protocol ({error}); the peer runs changed code.") from None
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise MalformedFrame(f"A message cannot be read ({error}); the peer is broken or runs changed code.") from None
