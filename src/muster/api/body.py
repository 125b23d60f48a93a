"""What may come in as a body: how large, how soon, and of how many values. Knows bytes, never reads what they say.

JSON of very many values, or of values in one another, takes far longer to read than its size suggests: eight
megabytes of `[],` hold the interpreter for seconds, and the event loop also keeps the machines of the pool. So values
are counted as the bytes come, in small pieces, before anything is parsed; and what is large is let through one after
the other, with a pause for everybody else. (Parsing in a thread would not help: it holds the interpreter all the same.)
"""

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from muster.api.serving import ServingOptions

MAX_MARKS = 3 * 2**16
"""Outside of strings a comma counts once; a colon and a bracket that opens count four times: keys are hashed, and lists
and objects are the interpreter's garbage to go through."""
MARKS = {b",": 1, b":": 4, b"[": 4, b"{": 4}
MAX_DEPTH = 64
"""Lists and objects in one another."""
MAX_BYTES_OUTSIDE_STRINGS = 3 * 2**20
"""Numbers of thousands of digits are slow to read."""
PIECE_BYTES = 64 * 1024
LARGE_BYTES = 256 * 1024
SLOW_BYTES = 8 * 2**20
SLOWEST_S = 0.1
"""What reading so many values, or so many bytes, takes at most."""


class TooMuch(Exception):
    """The text says of what there is too much, and how much is read."""


class TooDeep(TooMuch):
    """No body that means something is nested so deep, however small it is."""


class JsonWeight:
    """Counts what makes JSON slow to read, piece by piece. Of what is no JSON it counts something harmless."""

    def __init__(self) -> None:
        self._in_string = False
        self._held_back = b""
        """A backslash whose partner is in the next piece."""
        self._open = b""
        self.nbytes = 0
        self._outside_bytes = 0
        self._marks = 0

    def add(self, piece: bytes) -> None:
        """Raises `TooMuch`."""
        self.nbytes += len(piece)
        outside = self._outside_strings(piece)
        self._outside_bytes += len(outside)
        self._marks += sum(weight * outside.count(mark) for mark, weight in MARKS.items())
        if self._marks > MAX_MARKS or self._outside_bytes > MAX_BYTES_OUTSIDE_STRINGS:
            raise TooMuch(f"it holds more values than the {MAX_MARKS} that are read")
        self._nest(outside)

    @property
    def pause_s(self) -> float:
        """What everybody else is owed for the time that reading this takes."""
        return SLOWEST_S * (self._marks / MAX_MARKS + self.nbytes / SLOW_BYTES)

    def _outside_strings(self, piece: bytes) -> bytes:
        piece = self._held_back + piece
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        self._held_back = b"\\" * (backslashes % 2)
        piece = piece[: len(piece) - len(self._held_back)]
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b" ".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        return outside

    def _nest(self, outside: bytes) -> None:
        brackets = self._open + outside.translate(None, _NO_BRACKETS)
        for _ in range(MAX_DEPTH):
            fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(fewer) == len(brackets):
                break
            brackets = fewer
        if len(brackets) > MAX_DEPTH:
            raise TooDeep(f"it holds more than {MAX_DEPTH} lists and objects in one another")
        self._open = brackets


_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class BodyReader:
    """Gives the application a `receive` that refuses what is too large or too late. One per server."""

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._one_large_body = asyncio.Lock()

    def receiver(self, receive: Receive, headers: Headers) -> Receive:
        """`receive`, raising `HTTPException` for a body that is not to be read, announced or not."""
        limit, weight, complete = self._options.max_body_bytes, JsonWeight(), False
        deadline_s = asyncio.get_running_loop().time() + self._options.body_s
        announced = headers.get("content-length", "0")
        received_at_least = int(announced[:20]) if announced.isascii() and announced.isdigit() else 0

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()  # waits for the client to leave
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"it had {self._options.body_s:.0f} s") from None
            body = message.get("body", b"")
            complete = not message.get("more_body", False)
            if max(weight.nbytes + len(body), received_at_least) > limit:
                raise HTTPException(413, f"at most {limit} bytes are read")
            await self._weigh(weight, body)
            if complete and weight.nbytes > LARGE_BYTES:
                async with self._one_large_body:
                    await asyncio.sleep(weight.pause_s)
            return message

        return limited

    @staticmethod
    async def _weigh(weight: JsonWeight, body: bytes) -> None:
        try:
            for start in range(0, len(body), PIECE_BYTES):
                if start:
                    await asyncio.sleep(0)
                weight.add(body[start : start + PIECE_BYTES])
        except TooMuch as error:
            raise HTTPException(400 if isinstance(error, TooDeep) else 413, str(error)) from None
