"""A lab with real packets: links, faults, and nothing left behind, however it ends."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from muster.errors import InvalidRequest, PoolUnavailable
from muster.lab.faults import play_all
from muster.lab.wan import hosts, lifecycle
from muster.lab.wan.control import Report, ask
from muster.lab.wan.namespaces import enter_network, in_thread
from muster.lab.wan.programs import processes
from muster.lab.wan.record import LabRecord, folder_of, read_record, running
from muster.lab.wan.world import LabWorld
from muster.spec.faults import CutLink, Freeze, Heal, Join, LabFault, Leave, Slow, SlowLink
from muster.spec.scenario import parse_scenario

ECHO = """
import socket, sys, time
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind(("0.0.0.0", 5000))
while True:
    asked, sender = door.recvfrom(2000)
    door.sendto(repr(time.monotonic()).encode(), sender)
"""
COUNT = """
import sys, time
while True:
    with open(sys.argv[1], "a") as file: file.write("x")
    time.sleep(0.005)
"""


@contextmanager
def on(record: LabRecord, host: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program on a host, from before the block until its end."""
    place = record.host(host)
    environment = hosts.environment(record, place, os.environ)
    child = subprocess.Popen(words, env=environment, preexec_fn=partial(hosts.settle, record, place))
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def asking_from(record: LabRecord, host: str) -> Iterator[socket.socket]:
    """A socket of this process that stands on `host`: a socket belongs to the namespace in which it was made."""
    made: list[socket.socket] = []

    def make() -> None:
        enter_network(record.namespace(record.host(host)))
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    in_thread(make)
    made[0].settimeout(0.5)
    with made[0]:
        yield made[0]


def one_way_s(channel: socket.socket, address: str) -> float | None:
    """How long a packet took, by the clock that all hosts share; None if no answer came."""
    asked_s = time.monotonic()
    try:
        channel.sendto(b"?", (address, 5000))
        return float(channel.recv(100)) - asked_s
    except (TimeoutError, ConnectionError):
        return None


def wait_until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def befall(record: LabRecord, *faults: LabFault[str]) -> None:
    anyio.run(play_all, faults, LabWorld(record))


def test_packets_take_their_time_and_a_cut_stops_them(lab: LabRecord) -> None:
    south = lab.host("south").address
    with on(lab, "south", sys.executable, "-c", ECHO), asking_from(lab, "north") as channel:
        wait_until(lambda: one_way_s(channel, south))
        took = [one_way_s(channel, south) for _ in range(20)]
        # The best of many: a busy machine only ever adds to a delay.
        assert min(delay for delay in took if delay) == pytest.approx(0.02, abs=0.001)
        befall(lab, CutLink("north", "south", 0.0))
        assert one_way_s(channel, south) is None
        befall(lab, Heal("north", 0.0, "south"))
        assert one_way_s(channel, south)
    said = ask(folder_of(lab.name), Report())
    there = next(way for way in said.directions if way.source == "north")
    assert there.passed > 20
    assert there.dropped >= 1


def test_this_machine_reaches_every_host_at_once(lab: LabRecord) -> None:
    with on(lab, "south", sys.executable, "-c", ECHO), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(0.5)
        wait_until(lambda: one_way_s(channel, lab.host("south").address))
        took = [one_way_s(channel, lab.host("south").address) or 1.0 for _ in range(20)]
    assert statistics.median(took) < 0.02


def test_a_slow_link_takes_longer_for_the_same_packet(lab: LabRecord) -> None:
    south = lab.host("south").address
    befall(lab, SlowLink("north", "south", 0.0, 0.01))  # 125 kB/s: 1,400 bytes take 11 ms
    with on(lab, "south", sys.executable, "-c", ECHO), asking_from(lab, "north") as channel:
        wait_until(lambda: one_way_s(channel, south))
        asked_s = time.monotonic()
        channel.sendto(bytes(1372), (south, 5000))
        assert float(channel.recv(100)) - asked_s >= 0.02 + 0.0112 - 0.0002


def test_programs_freeze_and_leave_and_come_back(lab: LabRecord, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.touch()

    def grows() -> bool:
        before = trace.stat().st_size
        time.sleep(0.1)
        return trace.stat().st_size > before

    with on(lab, "north", sys.executable, "-c", COUNT, str(trace)) as child:
        wait_until(grows)
        befall(lab, Freeze("north", 0.0))
        assert not grows()
        befall(lab, Heal("north", 0.0))
        wait_until(grows)
        befall(lab, Leave("north", 0.0))
        assert child.wait(5) == -signal.SIGKILL
        assert processes(lab.host("north").inode) == []
        world = LabWorld(lab)
        anyio.run(play_all, [Join("north", 0.0)], world)
        wait_until(grows)
        hosts.leave(lab, lab.host("north"))
        for started in world._children:
            started.wait(5)


def test_a_slow_host_lacks_time_and_gets_it_back(lab: LabRecord) -> None:
    """By processor time of a program that never rests; on a busy machine it lacks more, so only the order is tested."""
    with on(lab, "north", sys.executable, "-c", "while True: pass") as child:

        def processor_ticks(seconds: float) -> int:
            def used() -> int:
                return int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11])

            before = used()
            time.sleep(seconds)
            return used() - before

        wait_until(lambda: processor_ticks(0.1) > 0)
        befall(lab, Slow("north", 0.0, 0.1))
        slow = processor_ticks(0.5)
        befall(lab, Slow("north", 0.0, 1.0))
        assert slow < processor_ticks(0.5)


def test_what_a_killed_keeper_left_is_gone_with_the_next_lab(lab: LabRecord) -> None:
    with on(lab, "south", "sleep", "600") as child:
        os.kill(lab.keeper, signal.SIGKILL)
        wait_until(lambda: not lab.alive)
        with pytest.raises(PoolUnavailable, match="No lab called"):
            running(lab.name)
        again = lifecycle.up(parse_scenario('name = "one"\nregions = ["a"]'), name=lab.name, network=lab.network)
        assert again.alive
        assert child.wait(5) == -signal.SIGKILL


def test_a_lab_ends_with_all_that_runs_on_its_hosts(lab: LabRecord) -> None:
    with on(lab, "north", "sleep", "600") as child:
        assert lifecycle.down(lab.name)
        assert child.wait(5) == -signal.SIGKILL
    assert read_record(lab.name) is None
    assert not Path(f"/sys/class/net/lab-{lab.name}").exists()
    assert not lifecycle.down(lab.name)


def test_names_and_addresses_that_are_taken_are_refused(lab: LabRecord) -> None:
    one = parse_scenario('name = "one"\nregions = ["a"]')
    with pytest.raises(InvalidRequest, match=r"is up already, with two-towns; end it with `muster lab down`"):
        lifecycle.up(one, name=lab.name, network="10.99.99.0/24")
    with pytest.raises(InvalidRequest, match=rf"are taken on this machine \(the lab {lab.name}\); choose others"):
        lifecycle.up(one, name="other", network=lab.network)
    with pytest.raises(InvalidRequest, match="No host of the lab is called 'sout'; did you mean south"):
        lab.host("sout")


def test_a_command_that_does_not_exist_is_refused_before_anything_is_entered(lab: LabRecord) -> None:
    with pytest.raises(InvalidRequest, match="There is no command 'iperf9' on this machine"):
        hosts.run_here(lab, lab.host("north"), ["iperf9"])
    with pytest.raises(InvalidRequest, match="write the command after --"):
        hosts.run_here(lab, lab.host("north"), [])
