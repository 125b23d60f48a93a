"""Answers that may be asked for again, and what was said before them: in memory, for some hours, of each key its own.

Knows no HTTP. Bounded in count and bytes; what is oldest goes first. A head that restarts has forgotten all of them.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.errors import InvalidRequest
from muster.text.calls import Message

MAX_OF_KEY = 1_000
MAX_BYTES_OF_KEY = 32 * 2**20
MAX_BYTES = 256 * 2**20
"""Of all keys together."""


class NoSuchResponse(InvalidRequest):
    status = 404
    code = "response_not_found"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    response: dict[str, Any]
    messages: tuple[Message, ...]
    """All that was said, the answer included, without instructions."""
    owner: str
    nbytes: int
    until_s: float


class ResponseStore:
    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._clock = keep_s, clock
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        """Oldest first: all of them are kept equally long."""

    def keep(self, owner: str, response: dict[str, Any], messages: tuple[Message, ...]) -> None:
        nbytes = len(json.dumps(response)) + sum(map(_size, messages))
        if nbytes > MAX_BYTES_OF_KEY:
            return  # no room that could be made would do
        self._make_room(owner, nbytes)
        until_s = self._clock() + self._keep_s
        self._stored[response["id"]] = StoredResponse(response, messages, owner, nbytes, until_s)

    def find(self, owner: str, id: str) -> StoredResponse:
        """Raises `NoSuchResponse`, also for an answer to another key."""
        self._forget_old()
        found = self._stored.get(id)
        if found is None or found.owner != owner:
            raise NoSuchResponse(
                "There is no such stored response (any more); send what was said before as input instead.",
                "response_id",
            )
        return found

    def forget(self, owner: str, id: str) -> None:
        """Raises `NoSuchResponse`."""
        self.find(owner, id)
        del self._stored[id]

    def check(self) -> None:
        """The bounds hold."""
        for owner in {stored.owner for stored in self._stored.values()}:
            own = self._of(owner)
            assert len(own) <= MAX_OF_KEY, f"{owner} has {len(own)} responses"
            assert sum(self._stored[id].nbytes for id in own) <= MAX_BYTES_OF_KEY, f"{owner} has too many bytes"
        assert sum(stored.nbytes for stored in self._stored.values()) <= MAX_BYTES, "all have too many bytes"

    def _make_room(self, owner: str, nbytes: int) -> None:
        self._forget_old()
        own = self._of(owner)
        used = sum(self._stored[id].nbytes for id in own)
        while own and (len(own) >= MAX_OF_KEY or used + nbytes > MAX_BYTES_OF_KEY):
            used -= self._stored.pop(own.pop(0)).nbytes
        everything = sum(stored.nbytes for stored in self._stored.values())
        while self._stored and everything + nbytes > MAX_BYTES:
            everything -= self._stored.popitem(last=False)[1].nbytes

    def _forget_old(self) -> None:
        now_s = self._clock()
        while self._stored and next(iter(self._stored.values())).until_s <= now_s:
            self._stored.popitem(last=False)

    def _of(self, owner: str) -> list[str]:
        return [id for id, stored in self._stored.items() if stored.owner == owner]


def _size(message: Message) -> int:
    calls = sum(4 * (len(call.name) + len(call.arguments)) + 100 for call in message.tool_calls)
    return 4 * (len(message.content) + len(message.reasoning or "")) + calls + 200
