"""Members in several processes: a process group of `torch.distributed` that belongs to one placement.

Nothing of it is global, and nothing is pickled: only tensors go from member to member. How members find each other is
told through `Notes`, which whoever has an authenticated way to them carries.
"""

from collections.abc import Callable
from datetime import timedelta
from threading import Condition, Event, Thread
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import Store
from torch.distributed import ProcessGroupGloo

from muster.errors import LinkDown, ProtocolViolation

MAX_NOTES = 64
MAX_NOTE_BYTES = 64 * 1024
MAX_KEY = 200
GATHER_S = 30.0
"""For all members to have found each other."""
LATE_S = 60.0
"""A member that is later than this at what members do together is lost. Mostly its lease has told long before."""


class Notes(Store):
    """What members tell each other before they are a group. Written once; a reader waits for what is not there yet."""

    def __init__(self, tell: Callable[[str, bytes], None]) -> None:
        """`tell` is called in any thread with what this member writes, for all others."""
        super().__init__()
        self._tell = tell
        self._notes: dict[str, bytes] = {}
        self._changed = Condition()
        self._is_closed = False

    def written(self, key: str, value: bytes) -> None:
        """Another member has written this; once more is the same as once. Raises `ProtocolViolation`."""
        with self._changed:
            if self._notes.setdefault(key, value) != value:
                raise ProtocolViolation("A member of the island wrote two different notes under one name; update it.")
            if len(self._notes) > MAX_NOTES or len(key) > MAX_KEY or len(value) > MAX_NOTE_BYTES:
                raise ProtocolViolation("A member of the island wrote more than members have to tell; update it.")
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever waits gets an error."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    # --- what `torch.distributed` calls ------------------------------------------------------------------------------

    def set(self, key: str, value: Any) -> None:
        note = bytes(value) if not isinstance(value, str) else value.encode()
        self.written(key, note)
        self._tell(key, note)

    def get(self, key: str) -> bytes:
        self.wait([key])
        with self._changed:
            return self._notes[key]

    def check(self, keys: list[str]) -> bool:
        with self._changed:
            return all(key in self._notes for key in keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        longest_s = GATHER_S if timeout is None else min(GATHER_S, timeout.total_seconds())
        with self._changed:
            here = self._changed.wait_for(lambda: self._is_closed or all(key in self._notes for key in keys), longest_s)
            if self._is_closed or not here:
                raise LinkDown("Members of the island do not answer each other.")


class ProcessGroup:
    """Implements `Group`. Made in a thread: it returns when all members have found each other, or raises `LinkDown`."""

    def __init__(self, notes: Notes, rank: int, size: int, host: str) -> None:
        """`host` is the address of this machine at which other members reach it."""
        self.rank, self.size = rank, size
        self._over = Event()
        """What members do together at the moment is over; they do one thing at a time."""
        kind: Any = ProcessGroupGloo
        options = kind._Options()
        options._timeout = timedelta(seconds=GATHER_S)
        try:
            options._devices = [kind.create_device(hostname=host)]
            self._group: Any = kind(notes, rank, size, options)
            self._group.set_timeout(timedelta(seconds=LATE_S))
        except (RuntimeError, LinkDown) as error:
            raise LinkDown(
                f"The members of the island do not reach each other from {host} ({_first_line(error)}); let them be on "
                "one network, without a firewall between them."
            ) from error

    def sum(self, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        self._together(lambda group: group.allreduce([total]))
        return total

    def gather(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        self._together(lambda group: group.allgather([parts], [x]))
        return parts

    def abort(self) -> None:
        """What waits for another member ends, and whatever comes raises `LinkDown`. Returns at once, in any thread."""
        groups, self._group = [self._group], None
        self._over.set()
        # To let go of a group in which something is under way takes as long as that may take.
        Thread(target=groups.clear, daemon=True).start()

    def _together(self, begin: Callable[[Any], Any]) -> None:
        group = self._group
        if group is None:
            raise LinkDown("The island has been dissolved.")
        try:
            work = begin(group)
            del group  # whoever aborts lets go of it
            # The library's own wait cannot be ended from outside.
            work.get_future().add_done_callback(lambda future: self._over.set())
            self._over.wait()
            self._over.clear()
            if self._group is None:
                raise LinkDown("The island was dissolved in the middle of a step.")
            work.wait()
        except RuntimeError as error:
            raise LinkDown(f"A member of the island is gone or hangs ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
