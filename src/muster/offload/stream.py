"""Units on their way into a ring of buffers, each read while those before it are used. Knows nothing of models.

    buffers        A       B
    compute      layer 0           layer 2            a buffer is filled again as soon as its unit was left
    disk                 layer 1           layer 3    and a unit is entered as soon as its own bytes are there

Nothing waits for anything else: there is one event per buffer and no barrier. FlexGen's code waits for the whole next
layer within the first of its batches; `settle` does so, for comparison.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from muster.errors import StepFailed
from muster.offload.direct import DirectFile, DirectRead, DirectReader, ReadsBlocks, aligned_buffer, aligned_up
from muster.offload.parts import Unit

OpenFile = Callable[[Path], ReadsBlocks]


@dataclass(slots=True)
class StreamStats:
    units: int = 0
    waited_s: float = 0.0
    """In which computing waited for bytes."""
    restarts: int = 0
    """Times that something else was wanted than what came."""


@dataclass(slots=True)
class _Slot:
    buffer: memoryview
    views: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By unit; the same memory each time."""


class WeightStream:
    """Units in a fixed cyclic order through `num_buffers` buffers. One thread enters and leaves."""

    def __init__(
        self, units: Sequence[Unit], reader: DirectReader, num_buffers: int = 2, open_file: OpenFile = DirectFile
    ) -> None:
        """Raises `StepFailed` where a file cannot be opened."""
        self.units = tuple(units)
        self.stats = StreamStats()
        self.reader = reader
        paths = {run.path for unit in units for run in unit.runs}
        self._files: Mapping[Path, ReadsBlocks] = {path: open_file(path) for path in sorted(paths)}
        self._place = {unit.name: index for index, unit in enumerate(units)}
        nbytes = max((unit.buffer_bytes for unit in units), default=0)
        self.buffer_bytes = num_buffers * nbytes
        self._free = deque(_Slot(aligned_buffer(nbytes)) for _ in range(min(num_buffers, len(units))))
        self._coming: deque[tuple[int, _Slot, DirectRead]] = deque()
        """Units being read or ready, in order."""
        self._used: dict[str, _Slot] = {}
        self._next = 0

    def start(self) -> None:
        """Read ahead as far as there are buffers."""
        while self._free:
            slot, unit = self._free.popleft(), self.units[self._next]
            self._coming.append((self._next, slot, self._read(unit, slot)))
            self._next = (self._next + 1) % len(self.units)

    def enter(self, name: str) -> dict[str, Tensor]:
        """The unit's tensors, once they are there; valid until it is left. Raises `StepFailed`."""
        self._seek(self._place[name])
        index, slot, reading = self._coming.popleft()
        began_s = time.perf_counter()
        try:
            self._await(index, slot, reading)
        except BaseException:
            self._next = index
            self._free.append(slot)
            self._give_up()
            raise
        finally:
            self.stats.waited_s += time.perf_counter() - began_s
        self.stats.units += 1
        self._used[name] = slot
        if name not in slot.views:
            slot.views[name] = self.units[index].views(slot.buffer)
        return slot.views[name]

    def _await(self, index: int, slot: _Slot, reading: DirectRead) -> None:
        try:
            reading.wait()
        except StepFailed:
            # That was while nothing was wanted; whoever wants it now may be luckier.
            self._read(self.units[index], slot).wait()

    def leave(self, name: str) -> None:
        """Its tensors are not used any more; its buffer is for what comes next."""
        self._free.append(self._used.pop(name))
        self.start()

    def settle(self) -> None:
        """Wait until all that was asked for has come, as FlexGen's code does. Errors are told by `enter`."""
        began_s = time.perf_counter()
        for _, _, reading in self._coming:
            while not reading.is_done:
                time.sleep(0.0005)
        self.stats.waited_s += time.perf_counter() - began_s

    def _seek(self, index: int) -> None:
        """Begin again at another unit where what was read ahead is not wanted."""
        while self._coming and self._coming[0][0] != index and any(one[0] == index for one in self._coming):
            self._drop(self._coming.popleft())
        if not self._coming or self._coming[0][0] != index:
            self.stats.restarts += bool(self._coming)
            self._give_up()
            self._next = index
        self.start()

    def _give_up(self) -> None:
        while self._coming:
            self._drop(self._coming.popleft())

    def _drop(self, one: tuple[int, _Slot, DirectRead]) -> None:
        one[2].give_up()
        self._free.append(one[1])

    def _read(self, unit: Unit, slot: _Slot) -> DirectRead:
        return self.reader.read(
            [
                (self._files[run.path], run.start, run.nbytes, slot.buffer[run.at : run.at + aligned_up(run.nbytes)])
                for run in unit.runs
            ]
        )

    def close(self) -> None:
        self._give_up()
        self.reader.close()
