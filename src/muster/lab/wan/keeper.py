"""The process that a lab is: it holds the namespaces, routes between them, and cuts links when it is told to.

    python -m muster.lab.wan.keeper < order

Says `{}` or an error on stdout once the lab is up. It ends with SIGTERM, and with it the lab: whatever still runs on a
host is killed. Ended with SIGKILL it can clean up nothing, but namespaces, devices and routes go with it.
"""

import gc
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from random import Random

import msgspec

from muster.errors import MachineTrouble, MusterError
from muster.lab.wan.control import (
    ControlSocket,
    CutHosts,
    DirectionReport,
    HealHosts,
    Hear,
    KeeperAnswer,
    Report,
    Request,
    Silence,
    SlowHosts,
)
from muster.lab.wan.direction import Direction
from muster.lab.wan.layout import Host, LabLayout, lay_out
from muster.lab.wan.namespaces import HostNamespace, check_able, new_device, new_namespace
from muster.lab.wan.programs import kill_all, processes, started_at
from muster.lab.wan.record import HostRecord, LabRecord, folder_of, remove_folder, write_record
from muster.lab.wan.router import Router
from muster.spec.scenario import Link, Scenario

DEVICE = "wan0"
AT_ONCE = Link(latency_s=0.0, bandwidth_bytes_per_s=1e13)
"""Between this machine's own seat and a host."""


class Order(msgspec.Struct, frozen=True):
    """What a keeper is started with."""

    name: str
    scenario: str
    """As JSON."""
    hosts: tuple[str, ...]
    network: str
    seed: int


class Keeper:
    def __init__(self, name: str, layout: LabLayout, seed: int) -> None:
        self.layout = layout
        self.router = Router()
        self._name = name
        self._seed = seed
        self._places = {host.name: self._place(host) for host in layout.hosts}
        self._directions: dict[tuple[str, str], Direction] = {}
        self._cut: set[frozenset[str]] = set()
        self._silent: set[str] = set()
        self._started_s = time.monotonic()
        self._connect()
        self._control = ControlSocket(folder_of(name), self.router, self.handle)
        for at_s in sorted({moment for cut in layout.scenario.cut for moment in (cut.start_s, cut.end_s)}):
            self.router.call_at(self._started_s + at_s, self._apply_cuts)
        self._apply_cuts()

    def record(self) -> LabRecord:
        return LabRecord(
            name=self._name,
            scenario=self.layout.scenario.name,
            network=str(self.layout.network),
            seat=str(self.layout.seat.ip),
            keeper=os.getpid(),
            keeper_started=started_at(os.getpid()),
            hosts=tuple(
                HostRecord(host.name, host.region, host.address, place.namespace, place.inode)
                for host in self.layout.hosts
                for place in [self._places[host.name]]
            ),
        )

    def handle(self, request: Request) -> KeeperAnswer:
        """Raises `InvalidRequest` for a host that is none."""
        match request:
            case CutHosts(one, other):
                self._cut.add(self._pair(one, other))
            case HealHosts(one, other):
                self._cut.discard(self._pair(one, other))
                self._slow(one, other, 1.0)
            case SlowHosts(one, other, factor):
                self._slow(one, other, factor)
            case Silence(host):
                self._silent.add(self.layout.host(host).name)
            case Hear(host):
                self._silent.discard(self.layout.host(host).name)
            case Report():
                return self._report()
        self._apply_cuts()
        return KeeperAnswer()

    def end(self) -> None:
        """Kill what runs on the hosts; the rest goes with this process."""
        for place in self._places.values():
            kill_all(partial(processes, place.inode))
        self._control.close()

    def _place(self, host: Host) -> HostNamespace:
        return new_namespace(DEVICE, self.layout.interface(host.address))

    def _connect(self) -> None:
        seat = new_device(f"lab-{self._name}", self.layout.seat)
        scenario, hosts = self.layout.scenario, self.layout.hosts
        for host in hosts:
            here = self._places[host.name].device
            own = Random(f"{self._seed} {host.name}")
            self.router.connect(seat, _packed(host.address), here, Direction(AT_ONCE, own))
            self.router.connect(here, self.layout.seat.ip.packed, seat, Direction(AT_ONCE, own))
            for other in hosts:
                if other is not host:
                    random = Random(f"{self._seed} {host.name} {other.name}")
                    direction = Direction(scenario.between(host.region, other.region), random)
                    self._directions[host.name, other.name] = direction
                    self.router.connect(here, _packed(other.address), self._places[other.name].device, direction)

    def _pair(self, one: str, other: str) -> frozenset[str]:
        return frozenset((self.layout.host(one).name, self.layout.host(other).name))

    def _slow(self, one: str, other: str, factor: float) -> None:
        for pair in ((one, other), (other, one)):
            self._directions[pair].slow(factor)

    def _apply_cuts(self) -> None:
        at_s = time.monotonic() - self._started_s
        regions = {host.name: host.region for host in self.layout.hosts}
        for (source, target), direction in self._directions.items():
            direction.is_cut = (
                frozenset((source, target)) in self._cut
                or not self._silent.isdisjoint((source, target))
                or self.layout.scenario.is_cut(regions[source], regions[target], at_s)
            )

    def _report(self) -> KeeperAnswer:
        totals = self.router.totals
        return KeeperAnswer(
            packets=totals.packets,
            strange=totals.strange,
            crowded_out=totals.crowded_out,
            refused=totals.refused,
            latest_s=totals.latest_s,
            processor_s=time.process_time(),
            directions=tuple(
                DirectionReport(*pair, way.passed, way.passed_bytes, way.lost, way.dropped, way.is_cut)
                for pair, way in self._directions.items()
                if way.passed or way.lost or way.dropped or way.is_cut
            ),
        )


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    if os.fork():
        os._exit(0)  # whoever started this need not wait for it
    try:
        keeper = _up(order)
    except MusterError as error:
        print(msgspec.json.encode({"code": error.code, "message": str(error)}).decode(), flush=True)
        return
    print("{}", flush=True)
    sys.stdout.close()
    os.close(1)
    signal.signal(signal.SIGTERM, lambda *_: keeper.router.stop())
    _hurry()
    try:
        keeper.router.run()
    finally:
        keeper.end()
        remove_folder(order.name)


def _up(order: Order) -> Keeper:
    check_able()
    layout = lay_out(Scenario.model_validate_json(order.scenario), order.hosts, order.network)
    try:
        keeper = Keeper(order.name, layout, order.seed)
        write_record(keeper.record())
    except OSError as error:
        raise MachineTrouble(
            f"The lab cannot be set up ({error.strerror or error}); read keeper.log in {folder_of(order.name)}, and "
            "give it another --name or --network if something of that name or address is there."
        ) from error
    return keeper


def _hurry() -> None:
    """Before the programs under test: a router that waits for a processor adds to every delay."""
    gc.collect()
    gc.freeze()
    gc.disable()  # routing makes no cycles, and a collection would hold packets up
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _packed(address: str) -> bytes:
    return IPv4Address(address).packed


if __name__ == "__main__":
    main()
