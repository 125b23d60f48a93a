"""What a machine has shown of what it claims, and how much is entrusted to it. Pure.

    proving ── it shows a speed, and memory ──> on trial ── enough work, or checks ──> established
    own: the operator has said that it is one of theirs; what it claims is taken as it is

Who is proving gets nothing. Whoever is on trial counts with what it has shown, and gets a part of the model only, while
those who are established can do without it; where they cannot, it works because there is nobody else, and is
established by that. A claim is taken for right where the machine has shown a quarter of it: networks, other programs
and cold caches take their share of a short exercise. Otherwise what it has shown counts, and nothing else.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from muster.broker.events import Exercise, Shown
from muster.spec.pool import Device, NodeId
from muster.verify import memory, speed

State = Literal["proving", "on trial", "established", "own"]
SLACK = 4.0
"""So many times what was shown is believed."""
BYTES_PER_FLOP = 1.0
"""No device of the table reads more than a third of a byte in the time of an operation: who multiplies slowly does not
read fast."""
WRONG_BY = 16.0
"""A machine that shows nothing in time is asked for so many times less at the next try."""
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 60.0
MAX_COUNTED = 16
"""Failures or doubts in a row; more make no difference."""
LEAST_CLAIM = 1e9
"""FLOP/s that are asked for of a machine that claims none that an exercise could show."""
CHECK_EVERY_S = 60.0
"""Whoever is on trial and has nothing to do is asked again after so long."""
MOST_PAUSES = 32
"""Whoever was found wrong again is asked half as often, down to this part."""
CHECKS = 5
"""So many in a row that confirm every claim are as good as work."""
WORK_STEPS, WORK_S = 200, 60.0
"""Steps that its neighbours saw pass, and for how long at least, until a machine is established."""
FIRST_HELD_BYTES = 64 * 2**20
HELD_GROWTH = 4
"""Each check asks for so many times more memory than the one before, up to what matters."""
MOST_HELD_BYTES = memory.MAX_ROWS * memory.ROW_BYTES
"""Exercises ask for no more, so whoever has held that is believed the rest."""


@dataclass(frozen=True, slots=True)
class TrustOptions:
    everybody: bool = False
    """All machines of the pool are the operator's own."""
    own: Collection[NodeId] = ()
    """These are."""


@dataclass(slots=True)
class Standing:
    """What one machine has shown, over all its connections."""

    device: tuple[str, str] = ("", "")
    """Kind and name of the device that has shown it."""
    flops_per_s: dict[str, float] = field(default_factory=dict)
    """The most that was seen of each dtype; 0 where it has failed."""
    held_bytes: int = 0
    asked_bytes: int = 0
    """In the exercise at hand."""
    has_shown: bool = False
    """Whether there is anything to count on."""
    established: bool = False
    next_s: float = -inf
    """When the next exercise is due."""
    failures: int = 0
    """Exercises in a row in which nothing was shown."""
    checks: int = 0
    """Exercises in a row that have confirmed every claim."""
    doubts: int = 0
    """Exercises in a row that have left a doubt."""
    epoch: int = 0
    """In which it works now or did last."""
    steps: int = 0
    """That its neighbours saw pass in this epoch."""
    earlier_steps: int = 0
    """The same in earlier ones."""
    worked_since_s: float | None = None
    beyond: str = ""
    """What of its claim no such device can have."""
    doubt: str = ""
    """What of its claim it has not shown."""

    # --- exercises ----------------------------------------------------------------------------------------------------

    def claims(self, device: Device) -> None:
        """It has measured itself, perhaps anew."""
        known, self.device = self.device, (device.kind, device.name)
        if known not in (self.device, ("", "")):  # another device, of which nothing is known
            self.flops_per_s, self.held_bytes, self.checks, self.failures, self.doubts = {}, 0, 0, 0, 0
            self.has_shown, self.established, self.next_s, self.doubt = False, False, -inf, ""
            self.set_back()

    def is_due(self, now_s: float) -> bool:
        """Whether an exercise is."""
        return now_s >= self.next_s and not (self.established and self.has_shown and not self.doubt)

    def exercise(self, device: Device, most_bytes: int) -> Exercise:
        """The next one. `most_bytes` are what a plan would put on the machine at most."""
        self.asked_bytes = 0 if self.established else self._next_bytes(min(device.memory_bytes, most_bytes))
        claims = {dtype: rate for dtype, rate in device.flops_per_s.items() if rate > 0 and dtype in speed.DTYPES}
        claims = claims or {"float32": LEAST_CLAIM}
        return Exercise({dtype: self._asked(dtype, rate) for dtype, rate in claims.items()}, self.asked_bytes)

    def _next_bytes(self, needed_bytes: int) -> int:
        """Whoever has come back may still hold the layers that it served with, so this is asked of newcomers only."""
        return memory.whole_rows(min(needed_bytes / SLACK, FIRST_HELD_BYTES * HELD_GROWTH**self.checks))

    def _asked(self, dtype: str, claimed: float) -> float:
        """What is asked for: the claim, or where that was wrong, something that ends in time."""
        shown = self.flops_per_s.get(dtype, 0.0)
        return min(claimed, WRONG_BY * shown) if shown else claimed / WRONG_BY**self.failures

    def has_exercised(self, device: Device, shown: Shown, now_s: float) -> None:
        for dtype, rate in shown.flops_per_s.items():
            # Of several tries the best: other programs can only make a machine slower.
            self.flops_per_s[dtype] = max(rate, self.flops_per_s.get(dtype, 0.0))
        self.held_bytes = max(self.held_bytes, shown.held_bytes)
        if any(shown.flops_per_s.values()):
            self.has_shown, self.failures = True, 0
            self.next_s = now_s + CHECK_EVERY_S * min(MOST_PAUSES, 2**self.doubts)
        else:
            self.next_s = now_s + min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**self.failures)
            self.failures = min(self.failures + 1, MAX_COUNTED)
        self.doubt = self._doubt(device, shown)
        self.checks, self.doubts = (0, min(self.doubts + 1, MAX_COUNTED)) if self.doubt else (self.checks + 1, 0)
        self.established = self.established or self.checks >= CHECKS

    def _doubt(self, device: Device, shown: Shown) -> str:
        if shown.fault:
            return f"It was asked to show its speed, and {shown.fault}."
        short = [
            f"{seen:.2g} FLOP/s in {dtype} of {device.flops_per_s[dtype]:.2g} that it claims"
            for dtype, seen in self.flops_per_s.items()
            if SLACK * seen < device.flops_per_s.get(dtype, 0.0)
        ]
        if shown.held_bytes < self.asked_bytes:
            short.append(f"{shown.held_bytes / 2**20:.0f} MiB of memory of {self.asked_bytes / 2**20:.0f} asked for")
        return f"It has shown only {', '.join(short)}." if short else ""

    # --- work ---------------------------------------------------------------------------------------------------------

    def passed(self, epoch: int, steps: int, now_s: float) -> bool:
        """Neighbours on both sides have seen so many steps pass through it in this epoch; whether that is enough."""
        if self.worked_since_s is None:
            self.worked_since_s = now_s
        if epoch != self.epoch:
            self.epoch, self.earlier_steps = epoch, self.earlier_steps + self.steps
        self.steps = steps
        self.established = self.earlier_steps + steps >= WORK_STEPS and now_s - self.worked_since_s >= WORK_S
        return self.established

    def set_back(self) -> None:
        """It has failed at something: what it did before counts no more."""
        self.steps, self.earlier_steps, self.worked_since_s, self.checks = 0, 0, None, min(self.checks, 1)

    # --- what is believed ---------------------------------------------------------------------------------------------

    def believed(self, device: Device) -> Device:
        """As fast as it has shown to be."""
        best = max(self.flops_per_s.values(), default=0.0)
        shown = {dtype: self.flops_per_s.get(dtype) or best for dtype in device.flops_per_s}
        speeds = {dtype: _believed(rate, shown[dtype]) for dtype, rate in device.flops_per_s.items()}
        fastest, claimed = max(speeds.values(), default=best), max(device.flops_per_s.values(), default=0.0)
        share = fastest / claimed if claimed else 1.0  # who is wrong about one figure is wrong about the others
        return replace(
            device,
            flops_per_s=speeds,
            memory_bandwidth_bytes_per_s=min(
                device.memory_bandwidth_bytes_per_s * share, BYTES_PER_FLOP * max(fastest, 1.0)
            ),
            host_bandwidth_bytes_per_s=device.host_bandwidth_bytes_per_s * share,
            disk_bandwidth_bytes_per_s=device.disk_bandwidth_bytes_per_s * share,
        )

    def entrusted_bytes(self, has_held_bytes: int) -> float:
        """On trial, for what it has shown, or has held at work before."""
        return inf if self.held_bytes >= MOST_HELD_BYTES else SLACK * max(self.held_bytes, has_held_bytes)


def _believed(claimed: float, shown: float) -> float:
    return claimed if SLACK * shown >= claimed else shown
