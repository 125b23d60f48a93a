"""What can go wrong in a pool, as words that a test writes down. Knows nothing of how a fault is brought about.

    faults = [leave(node=3, at=12.0), cut(0, 2, at=5.0), heal(0, 2, at=9.0), slow(node=1, at=3.0, factor=0.25)]
    await play(faults, world)

`scatter(seed, ...)` draws them at random; print the seed, and the same faults come again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Leave:
    """The node vanishes without a goodbye."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing passes between the two nodes any more, in either direction."""

    at_s: float
    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Heal:
    """The link between the two nodes is as it was."""

    at_s: float
    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Slow:
    """The node computes at `factor` of its speed from now on."""

    at_s: float
    node: int
    factor: float


Fault = Leave | Cut | Heal | Slow


class World(Protocol):
    """What faults happen to."""

    async def leave(self, node: int) -> None: ...

    async def cut(self, one: int, other: int) -> None: ...

    async def heal(self, one: int, other: int) -> None: ...

    async def slow(self, node: int, factor: float) -> None: ...


def leave(node: int, at: float) -> Leave:
    return Leave(at, node)


def cut(one: int, other: int, at: float) -> Cut:
    return Cut(at, one, other)


def heal(one: int, other: int, at: float) -> Heal:
    return Heal(at, one, other)


def slow(node: int, at: float, factor: float) -> Slow:
    return Slow(at, node, factor)


def scatter(seed: int, num_nodes: int, duration_s: float, num_faults: int, spare: int = 1) -> list[Fault]:
    """`num_faults` faults within `duration_s`, the same for the same seed. At least `spare` nodes never leave.

    Every cut is healed before the end, after at most a fifth of the time.
    """
    dice = random.Random(seed)
    leavers = dice.sample(range(num_nodes), num_nodes - spare)
    faults: list[Fault] = []
    for _ in range(num_faults):
        at = dice.uniform(0, duration_s)
        kind = dice.choice(["leave", "cut", "slow"] if leavers else ["cut", "slow"])
        if kind == "leave":
            faults.append(leave(leavers.pop(), at))
        elif kind == "cut" and num_nodes > 1:
            one, other = dice.sample(range(num_nodes), 2)
            faults.append(cut(one, other, at))
            faults.append(heal(one, other, min(duration_s, at + dice.uniform(0, duration_s / 5))))
        else:
            faults.append(slow(dice.randrange(num_nodes), at, dice.uniform(0.1, 1.0)))
    return sorted(faults, key=lambda fault: fault.at_s)


async def play(faults: Sequence[Fault], world: World, sleep: Sleep = asyncio.sleep) -> None:
    """Bring each fault about at its time, counted from now."""
    now_s = 0.0
    for fault in sorted(faults, key=lambda fault: fault.at_s):
        await sleep(fault.at_s - now_s)
        now_s = fault.at_s
        await bring_about(fault, world)


async def bring_about(fault: Fault, world: World) -> None:
    match fault:
        case Leave(node=node):
            await world.leave(node)
        case Cut(one=one, other=other):
            await world.cut(one, other)
        case Heal(one=one, other=other):
            await world.heal(one, other)
        case Slow(node=node, factor=factor):
            await world.slow(node, factor)
