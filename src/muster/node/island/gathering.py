"""The members of one stage become a group: notes go through the first member, then tensors from each to each.

What a member says of itself is checked: it can only tell how it is reached itself, and before the first step all
compare which part of which layers each of them has.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

import torch
from blake3 import blake3

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import short_id
from muster.model.parallel.process_group import GATHER_S, Notes, ProcessGroup
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.island import IslandNote, IslandStep
from muster.wire.messages.placement import Assign

Send = Callable[[AnyMessage, Payload], None]
Result = TypeVar("Result")
LOOK_S = 0.02
REPEAT_S = 0.3
"""A member that is not ready yet hears nothing, so notes are said again."""


class Island:
    """One member's view. Messages come in the event loop, `group` is used in the thread that computes."""

    def __init__(self, assign: Assign, node: NodeId, host: str, sends: Mapping[NodeId, Send]) -> None:
        """`sends` lead to the first member, or from it to all others."""
        self.assign, self.node = assign, node
        self.members = assign.mine.members
        self.rank = assign.rank(node)
        self.sends = sends
        self.group: ProcessGroup | None = None
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._notes = Notes(self._say)
        self._said: list[IslandNote] = []
        """That this member says to others: its own notes, and at the first member everybody's."""
        self._is_over = False
        self._telling: asyncio.Future[None] | None = None

    def receive(self, peer: NodeId, note: IslandNote) -> None:
        """Raises `ProtocolViolation` where this peer may not say this."""
        if peer not in self.members or (self.rank > 0 and peer != self.members[0]):
            raise ProtocolViolation(f"Node {short_id(peer)} sent a note to an island that it does not belong to.")
        if self.rank == 0:
            if not note.key.endswith(f"/{self.members.index(peer)}"):
                raise ProtocolViolation(f"Node {short_id(peer)} spoke for another member of its island; update it.")
            self._notes.written(note.key, note.value)
            self._pass_on(note)
        elif not note.key.endswith(f"/{self.rank}"):
            self._notes.written(note.key, note.value)

    async def gather(self) -> None:
        """Returns when all members are one group, and each has its own part. Raises `LinkDown`, `ProtocolViolation`."""
        self._telling = asyncio.ensure_future(self._tell_again())
        self._notes.set(f"here/{self.rank}", b"yes")
        # Others may take minutes more to load; whether they are still at it, the head knows.
        while not self._notes.check([f"here/{rank}" for rank in range(len(self.members))]):
            await asyncio.sleep(LOOK_S)
        group = await _in_own_thread(self._form)
        self.group = group
        if self._is_over:  # dropped meanwhile
            group.abort()
        await _in_own_thread(lambda: self._compare(group))

    def tell(self, message: IslandStep, payload: Payload) -> None:
        """To all other members, in the order of the calls; in any thread."""
        for send in self.sends.values():
            self._loop.call_soon_threadsafe(send, message, payload)

    def close(self) -> None:
        """Whoever waits for other members, here or in the middle of a step, gets an error at once."""
        self._is_over = True
        self._notes.close()
        if self._telling is not None:
            self._telling.cancel()
        if self.group is not None:
            self.group.abort()

    def lost(self, error: LinkDown) -> tuple[NodeId, str]:
        """Whom to name where what members do together has failed; the head finds out who of them is gone."""
        return self.members[1 if self.rank == 0 else 0], str(error)

    def _form(self) -> ProcessGroup:
        return ProcessGroup(self._notes, self.rank, len(self.members), self._host)

    def _compare(self, group: ProcessGroup) -> None:
        mine, assign = self.assign.mine, self.assign
        digest = blake3(f"{assign.model} {assign.manifest} {assign.dtype} {assign.job}".encode()).digest()[:7]
        common = [assign.epoch, mine.first, mine.last, group.size, int.from_bytes(digest, "big")]
        parts = group.gather(torch.tensor([group.rank, *common]))
        for rank, part in enumerate(parts):
            if part.tolist() != [rank, *common]:
                raise ProtocolViolation(
                    f"Node {short_id(self.members[rank])} holds another part of the model than its own; restart it."
                )

    def _say(self, key: str, value: bytes) -> None:
        """In any thread."""
        note = IslandNote(epoch=self.assign.epoch, key=key, value=value)
        self._loop.call_soon_threadsafe(self._pass_on, note)

    def _pass_on(self, note: IslandNote) -> None:
        if note not in self._said:
            self._said.append(note)
            self._send(note)

    def _send(self, note: IslandNote) -> None:
        for send in self.sends.values():
            send(note, b"")

    async def _tell_again(self) -> None:
        """It goes on for a while: a member may not have heard all when the others are through."""
        left_s = GATHER_S
        while left_s > 0 and not self._is_over:
            await asyncio.sleep(REPEAT_S)
            left_s -= REPEAT_S if self.group is not None else 0.0
            for note in self._said:
                self._send(note)


async def _in_own_thread(work: Callable[[], Result]) -> Result:
    """One that nobody waits for at the end: where a member is gone, it may take as long as `GATHER_S`."""
    future: Future[Result] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    Thread(target=run, daemon=True, name="island").start()
    return await asyncio.wrap_future(future)
