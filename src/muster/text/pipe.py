"""Frames over a pipe between two processes of one machine: a length of 8 bytes, then so many bytes."""

import os
import select
import time

MAX_FRAME_BYTES = 512 * 2**20
_HEADER_BYTES = 8
_PIECE_BYTES = 2**20


def write_frame(pipe: int, data: bytes) -> None:
    rest = memoryview(len(data).to_bytes(_HEADER_BYTES, "little") + data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def read_frame(pipe: int, within_s: float | None = None) -> bytes:
    """Raises `EOFError` when the other side is gone, `TimeoutError` when nothing more came in time."""
    deadline_s = None if within_s is None else time.monotonic() + within_s
    size = int.from_bytes(_read_exactly(pipe, _HEADER_BYTES, deadline_s), "little")
    if size > MAX_FRAME_BYTES:
        raise EOFError("a frame larger than any")
    return _read_exactly(pipe, size, deadline_s)


def _read_exactly(pipe: int, size: int, deadline_s: float | None) -> bytes:
    data = bytearray()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while len(data) < size:
        if not poll.poll(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) * 1000):
            raise TimeoutError("nothing came in time")
        piece = os.read(pipe, min(size - len(data), _PIECE_BYTES))
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return bytes(data)
