"""What can go wrong in a pool, as words that a test writes down. Knows nothing of how a fault is brought about.

    faults = [Leave(3, 12.0), CutLink(0, 2, 5.0, until_s=9.0), Slow(1, 3.0, factor=0.25)]
    await play(faults, world)

`scatter(seed, ...)` draws them at random; print the seed, and the same faults come again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Protocol, TypeVar

from muster.spec.faults import CutLink, Fault, Freeze, Heal, Join, LabFault, Leave, Slow, SlowLink

Sleep = Callable[[float], Awaitable[None]]
MachineT = TypeVar("MachineT")
_MachineT = TypeVar("_MachineT", contravariant=True)


class World(Protocol[_MachineT]):
    """What faults happen to."""

    async def leave(self, node: _MachineT) -> None: ...

    async def cut(self, one: _MachineT, other: _MachineT) -> None: ...

    async def heal(self, one: _MachineT, other: _MachineT) -> None: ...

    async def slow(self, node: _MachineT, factor: float) -> None: ...


class MachineWorld(World[_MachineT], Protocol[_MachineT]):
    """Where whole machines are at hand, more can happen."""

    async def join(self, node: _MachineT) -> None: ...

    async def freeze(self, node: _MachineT) -> None: ...

    async def wake(self, node: _MachineT) -> None:
        """Neither frozen nor slow any more."""

    async def slow_link(self, one: _MachineT, other: _MachineT, factor: float) -> None: ...


def scatter(seed: int, num_nodes: int, duration_s: float, num_faults: int, spare: int = 1) -> list[Fault[int]]:
    """`num_faults` faults within `duration_s`, the same for the same seed. At least `spare` nodes never leave.

    Every cut is healed before the end, after at most a fifth of the time.
    """
    dice = random.Random(seed)
    leavers = dice.sample(range(num_nodes), num_nodes - spare)
    faults: list[Fault[int]] = []
    for _ in range(num_faults):
        at = dice.uniform(0, duration_s)
        kind = dice.choice(["leave", "cut", "slow"] if leavers else ["cut", "slow"])
        if kind == "leave":
            faults.append(Leave(leavers.pop(), at))
        elif kind == "cut" and num_nodes > 1:
            one, other = dice.sample(range(num_nodes), 2)
            faults.append(CutLink(one, other, at, min(duration_s, at + dice.uniform(0, duration_s / 5))))
        else:
            faults.append(Slow(dice.randrange(num_nodes), at, dice.uniform(0.1, 1.0)))
    return sorted(faults, key=lambda fault: fault.at_s)


async def play(faults: Sequence[Fault[MachineT]], world: World[MachineT], sleep: Sleep = asyncio.sleep) -> None:
    """Bring each fault about at its time, counted from now, and end each cut at its end."""
    await _play([moment for fault in faults for moment in _moments(fault, world)], sleep)


async def play_all(
    faults: Sequence[LabFault[MachineT]], world: MachineWorld[MachineT], sleep: Sleep = asyncio.sleep
) -> None:
    """`play`, with the faults that take a machine."""
    await _play([moment for fault in faults for moment in _lab_moments(fault, world)], sleep)


Moment = tuple[float, Callable[[], Awaitable[None]]]


async def _play(moments: Sequence[Moment], sleep: Sleep) -> None:
    now_s = 0.0
    for at_s, bring_about in sorted(moments, key=lambda moment: moment[0]):
        await sleep(at_s - now_s)
        now_s = at_s
        await bring_about()


def _moments(fault: Fault[MachineT], world: World[MachineT]) -> Iterator[Moment]:
    match fault:
        case Leave(node, at_s):
            yield at_s, partial(world.leave, node)
        case CutLink(source, target, at_s, until_s):
            yield at_s, partial(world.cut, source, target)
            if until_s < inf:
                yield until_s, partial(world.heal, source, target)
        case Slow(node, at_s, factor):
            yield at_s, partial(world.slow, node, factor)
        case Join():
            raise ValueError("a rehearsal cannot bring a machine back; join one by its ticket")


def _lab_moments(fault: LabFault[MachineT], world: MachineWorld[MachineT]) -> Iterator[Moment]:
    match fault:
        case Join(node, at_s):
            yield at_s, partial(world.join, node)
        case Freeze(node, at_s, until_s):
            yield at_s, partial(world.freeze, node)
            if until_s < inf:
                yield until_s, partial(world.wake, node)
        case SlowLink(source, target, at_s, factor):
            yield at_s, partial(world.slow_link, source, target, factor)
        case Heal(node, at_s, None):
            yield at_s, partial(world.wake, node)
        case Heal(node, at_s, other) if other is not None:
            yield at_s, partial(world.heal, node, other)
        case Leave() | CutLink() | Slow():
            yield from _moments(fault, world)
