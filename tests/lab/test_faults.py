"""Faults as words: the same seed gives the same ones, and each happens at its time."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.lab.faults import play, play_all, scatter
from muster.spec.faults import CutLink, Fault, Freeze, Heal, Join, LabFault, Leave, Slow, SlowLink


class Diary:
    """A world that writes down what befalls it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.entries: list[tuple[float, str]] = []

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds

    async def leave(self, node: int) -> None:
        self.entries.append((self.now_s, f"leave {node}"))

    async def cut(self, one: int, other: int) -> None:
        self.entries.append((self.now_s, f"cut {one} {other}"))

    async def heal(self, one: int, other: int) -> None:
        self.entries.append((self.now_s, f"heal {one} {other}"))

    async def slow(self, node: int, factor: float) -> None:
        self.entries.append((self.now_s, f"slow {node} {factor}"))


def test_each_fault_happens_at_its_time_in_whatever_order_it_was_written() -> None:
    diary = Diary()
    faults: list[Fault[int]] = [Leave(3, 12.0), CutLink(0, 2, 5.0, until_s=9.0), Slow(1, 3.0, factor=0.25)]
    anyio.run(play, faults, diary, diary.sleep)
    assert [what for _, what in diary.entries] == ["slow 1 0.25", "cut 0 2", "heal 0 2", "leave 3"]
    assert [when for when, _ in diary.entries] == pytest.approx([3.0, 5.0, 9.0, 12.0])


@given(st.integers(), st.integers(1, 12), st.integers(0, 30), st.integers(1, 3))
def test_scattered_faults_leave_somebody_and_heal_what_they_cut(seed: int, nodes: int, count: int, spare: int) -> None:
    spare = min(spare, nodes)
    faults = scatter(seed, nodes, duration_s=60.0, num_faults=count, spare=spare)
    assert faults == scatter(seed, nodes, duration_s=60.0, num_faults=count, spare=spare)
    assert all(0 <= fault.at_s <= 60 for fault in faults)
    gone = [fault.node for fault in faults if isinstance(fault, Leave)]
    assert len(set(gone)) == len(gone) <= nodes - spare
    assert all(fault.at_s <= fault.until_s <= 60 for fault in faults if isinstance(fault, CutLink))
    assert all(0 < fault.factor <= 1 for fault in faults if isinstance(fault, Slow))


class MachineDiary(Diary):
    async def join(self, node: int) -> None:
        self.entries.append((self.now_s, f"join {node}"))

    async def freeze(self, node: int) -> None:
        self.entries.append((self.now_s, f"freeze {node}"))

    async def wake(self, node: int) -> None:
        self.entries.append((self.now_s, f"wake {node}"))

    async def slow_link(self, one: int, other: int, factor: float) -> None:
        self.entries.append((self.now_s, f"slow {one} {other} {factor}"))


def test_where_whole_machines_are_at_hand_every_fault_happens_and_ends() -> None:
    diary = MachineDiary()
    faults: list[LabFault[int]] = [
        Leave(0, 1.0),
        Join(0, 2.0),
        Freeze(1, 3.0, until_s=4.0),
        Freeze(1, 5.0),
        Heal(1, 6.0),
        SlowLink(0, 1, 7.0, 0.1),
        CutLink(0, 1, 8.0),
        Heal(0, 9.0, 1),
        Slow(2, 10.0, 0.5),
    ]
    anyio.run(play_all, faults, diary, diary.sleep)
    assert [f"{when:g} {what}" for when, what in diary.entries] == [
        "1 leave 0",
        "2 join 0",
        "3 freeze 1",
        "4 wake 1",
        "5 freeze 1",
        "6 wake 1",
        "7 slow 0 1 0.1",
        "8 cut 0 1",
        "9 heal 0 1",
        "10 slow 2 0.5",
    ]
