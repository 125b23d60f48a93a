"""The asyncio shell of a node: dials the head, carries out what `NodeState` decides, passes messages to its stages.

Knows nothing of scheduling or placement. Workers only dial out: what the head wants to say comes back on the
connection that this node opened, and other nodes are dialled when a placement makes them neighbours.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from msgspec.structs import replace

from muster import __version__
from muster.errors import LinkDown, MachineTrouble, MusterError, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.relay import RelayCarrier
from muster.node.announce import Announce
from muster.node.incoming import Incoming
from muster.node.loading import StageLoader
from muster.node.measure import free_memory_bytes, measure_device
from muster.node.neighbours import Neighbours, Outbox
from muster.node.probes import Probes, greet, measure_bandwidth
from muster.node.stages import Stages
from muster.node.state import Command, Drop, Load, NodeState, Quit, Rejoin, Say
from muster.spec.pool import Device
from muster.wire.messages.base import PROTOCOL, Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Hello, Measured, PeerMeasured, Welcome
from muster.wire.messages.placement import Assign

log = structlog.get_logger()
TICK_S = 0.2
WAYS_S = 30.0
"""Between two reports of how far away the neighbours are: a way may grow long while a placement lasts."""
SETTLE_S = 60.0
"""How long the last step of a dropped stage may take before the next stage is loaded."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    name: str
    cache_dir: Path
    region: str = ""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    memory_cap_bytes: int | None = None
    """What the owner lends; None lends what is free."""
    speed: float = 1.0
    """Below 1 rehearses a slower machine."""
    drain_timeout_s: float = 60.0


Measure = Callable[[WorkerOptions], Device]


def measured(options: WorkerOptions) -> Device:
    """What this machine can do under these options."""
    return measure_device(options.device, options.memory_cap_bytes, options.cache_dir, options.speed)


@dataclass(frozen=True, slots=True)
class HeadDoor:
    """Where the head is and how to prove that we may come in."""

    address: Address
    prove: Callable[[str], bytes]
    """Our node id -> the proof of the join secret."""


class Worker:
    """Joins, serves until told to stop, leaves."""

    def __init__(
        self,
        endpoint: Endpoint,
        door: HeadDoor,
        options: WorkerOptions,
        announce: Announce = lambda event, sentence, **facts: None,
        regions: dict[str, str] | None = None,
        measure: Measure | None = None,
    ) -> None:
        """`regions` is filled with the region of every node we hear of, for whoever shapes the links.

        `measure` says what this machine can do, in a thread; by default it is measured.
        """
        self._endpoint = endpoint
        self._door = door
        self._options = options
        self._announce = announce
        self._regions = regions if regions is not None else {}
        self._measure = measure or measured
        self._state = NodeState(endpoint.node_id)
        self._neighbours = Neighbours(endpoint)
        self._probes = Probes()
        self._stages = Stages(endpoint.node_id, door.address.node, options.speed, self._neighbour_lost)
        self._incoming = Incoming(self._stages, self._spawn)
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._drops: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._control: Outbox | None = None
        self._head: Connection | None = None
        self._device: Device | None = None
        self._loader: StageLoader | None = None
        self._quit: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serve until drained. Raises `MusterError` if refused, unreachable at first, or the drain takes too long."""
        options = self._options
        self._quit = asyncio.get_running_loop().create_future()
        self._announce("measuring", "Measuring this machine.")
        self._device = await asyncio.to_thread(self._measure, options)
        self._announce("measured", describe(self._device), device=asdict(self._device))
        self._loader = StageLoader(options.cache_dir, options.device, self._device.memory_bytes)
        try:
            await self._join()
            self._spawn(self._incoming.connections(self._endpoint))
            self._spawn(self._tick_forever())
            self._spawn(self._report_ways())
            await self._quit
        finally:
            await self._close()

    def drain(self) -> None:
        """Leave once what runs here has moved to other machines."""
        self._announce("draining", "Draining: what runs here moves to other machines first.")
        self._carry_out(self._state.drain(self._now(), self._options.drain_timeout_s))

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stages.close()
        if self._control is not None:
            await self._control.close()
        await self._neighbours.close()
        await self._endpoint.close()

    # --- the head ---------------------------------------------------------------------------------------------------

    async def _join(self) -> None:
        head = await self._endpoint.dial(self._door.address)
        control = await head.open("control")
        hello = Hello(
            protocol=PROTOCOL,
            version=__version__,
            name=self._options.name,
            region=self._options.region,
            proof=self._door.prove(self._endpoint.node_id),
            address=replace(self._endpoint.address, region=self._options.region),
        )
        await control.send(hello)
        self._head = head
        self._control = Outbox(control, lambda error: None)
        self._spawn(self._listen(head, control))
        self._spawn(self._incoming.channels(head))

    async def _listen(self, head: Connection, control: Channel) -> None:
        try:
            while True:
                message, _ = await control.receive()
                was_joined = self._state.joined
                self._learn_regions(message)
                self._carry_out(self._state.heard(message, self._now()))
                if self._state.joined and not was_joined:
                    self._announce("joined", f"Joined the pool of {short_id(head.peer)}.", node=self._endpoint.node_id)
                    self._spawn(self._introduce(head))
                    self._spawn(self._relay_through(head))
        except (LinkDown, ProtocolViolation) as error:
            if self._head is head:
                log.info("head.lost", reason=str(error))  # the sentence that is announced warns
                self._carry_out(self._state.head_lost(self._now()))

    async def _introduce(self, head: Connection) -> None:
        """Tell the head what this machine is, then how far away it is."""
        assert self._device is not None
        self._tell(Measured(device=self._device, free_memory_bytes=self._free_memory_bytes()))
        await self._probe(head.peer, lambda: head.open("bulk"))

    async def _probe(self, peer: str, open_channel: Callable[[], Awaitable[Channel]]) -> None:
        """Tell the head how far away `peer` is and how wide the way."""
        try:
            bulk = await open_channel()
            try:
                round_trip_s = await greet(bulk, peer)
                bandwidth = await measure_bandwidth(bulk, peer, round_trip_s)
            finally:
                await bulk.close()
        except (LinkDown, ProtocolViolation) as error:
            log.info("measure.failed", peer=short_id(peer), reason=str(error))
            return
        self._tell(PeerMeasured(peer=peer, round_trip_s=round_trip_s, bandwidth_bytes_per_s=bandwidth))

    async def _relay_through(self, head: Connection) -> None:
        """A carrier through the head, for peers that cannot be dialled."""
        try:
            carrier = RelayCarrier(self._endpoint.node_id, await head.open("relay"))
            self._neighbours.carrier = carrier
            self._spawn(self._incoming.relayed(carrier))
            await carrier.run()
        except (LinkDown, ProtocolViolation) as error:
            log.info("relay.closed", reason=str(error))

    def _learn_regions(self, message: AnyMessage) -> None:
        if isinstance(message, Welcome):
            self._regions[self._door.address.node] = message.region
        elif isinstance(message, Assign):
            self._regions.update({address.node: address.region for address in message.peers})

    async def _rejoin(self, after_s: float) -> None:
        self._announce("head_lost", f"Lost the head; trying again in {after_s:.1f} s.", after_s=after_s)
        head, self._head = self._head, None
        if self._control is not None:
            await self._control.close()
            self._control = None
        if head is not None:
            await head.close()
        await asyncio.sleep(after_s)
        try:
            await self._join()
        except (LinkDown, ProtocolViolation) as error:
            log.warning("rejoin.failed", reason=str(error))
            self._carry_out(self._state.head_lost(self._now()))

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._loader is not None:
                self._loader.tidy()
            self._carry_out(self._state.tick(self._now(), self._stages.vitals(self._free_memory_bytes())))

    async def _report_ways(self) -> None:
        while True:
            await asyncio.sleep(WAYS_S)
            for peer, round_trip_s in self._neighbours.round_trips_s().items():
                self._tell(PeerMeasured(peer=peer, round_trip_s=round_trip_s, bandwidth_bytes_per_s=0.0))

    def _free_memory_bytes(self) -> int:
        free = free_memory_bytes(self._options.device)
        if self._loader is not None:
            free += self._loader.idle_bytes
        cap = self._options.memory_cap_bytes
        return free if cap is None else min(free, cap)

    # --- commands ---------------------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Say(message):
                    self._tell(message)
                case Load(assign):
                    self._stages.expect(assign)
                    self._loads[assign.epoch] = self._spawn(self._load(assign))
                case Drop(epoch):
                    drop = self._spawn(self._drop(epoch, self._loads.pop(epoch, None)))
                    self._drops.add(drop)
                    drop.add_done_callback(self._drops.discard)
                case Rejoin(after_s):
                    self._spawn(self._rejoin(after_s))
                case Quit(error):
                    self._spawn(self._quit_soon(error))

    def _tell(self, message: AnyMessage) -> None:
        if self._control is not None:
            self._control.put(message)

    async def _quit_soon(self, error: MusterError | None) -> None:
        await asyncio.sleep(TICK_S)  # the goodbye needs a moment to leave
        assert self._quit is not None
        if self._quit.done():
            return
        if error is None:
            self._quit.set_result(None)
        else:
            self._quit.set_exception(error)

    async def _drop(self, epoch: int, load: "asyncio.Task[None] | None") -> None:
        if load is not None:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        await self._stages.drop(epoch)
        if self._loader is not None:
            self._loader.release(epoch)

    async def _settle(self) -> None:
        """Wait until what was dropped before is gone. Raises `MachineTrouble` where one of its steps does not end."""
        if drops := set(self._drops):
            _, hanging = await asyncio.wait(drops, timeout=SETTLE_S)
            if hanging:
                raise MachineTrouble(
                    f"A step of an earlier placement still computes after {SETTLE_S:.0f} s and keeps its memory; "
                    "restart this node."
                )

    async def _load(self, assign: Assign) -> None:
        assert self._loader is not None
        mine = assign.mine
        layers = f"layers {mine.first}–{mine.last - 1}"
        facts = {"epoch": assign.epoch, "first": mine.first, "last": mine.last}
        self._announce("loading", f"Loading {layers}.", **facts)
        try:
            if self._head is None:
                raise LinkDown("The head is gone; its next placement will ask again.")
            await self._settle()
            work = await self._loader.load(assign, self._head, self._tell)
            next_box = await self._reach_next(assign)
        except Exception as error:
            # Not only what we foresaw: what a model's files and its configuration can make go wrong has no end, and
            # the next placement may be a good one.
            trouble = error if isinstance(error, MusterError) else MusterError(f"Loading broke ({error!r:.200}).")
            log.warning("load.failed", epoch=assign.epoch, reason=str(trouble), exc_info=trouble is not error)
            self._announce("load_failed", f"Could not load {layers}: {trouble}", **facts, reason=str(trouble))
            self._carry_out(self._state.load_failed(assign.epoch, trouble))
            return
        finally:
            self._loads.pop(assign.epoch, None)
        self._stages.start(assign, work, next_box)
        self._announce("serving", f"Serving {layers}.", **facts)
        self._carry_out(self._state.loaded(assign.epoch))

    async def _reach_next(self, assign: Assign) -> Outbox | None:
        """The channel to the next stage (the last stage's next is the first), proven to work before we say `Loaded`."""
        if len(assign.stages) == 1:
            return None
        peer = assign.stages[(assign.index + 1) % len(assign.stages)].node
        address = next((address for address in assign.peers if address.node == peer), None)
        if address is None:
            raise ProtocolViolation(f"The head named no address for node {short_id(peer)}; its books are wrong.")
        channel = await self._neighbours.open(address, "data")
        round_trip_s = await greet(channel, peer)
        self._tell(PeerMeasured(peer=peer, round_trip_s=round_trip_s, bandwidth_bytes_per_s=0.0))
        if self._probes.take(peer, self._now()):  # beside the rest: nobody's tokens wait for a measurement
            self._spawn(self._probe(peer, lambda: self._neighbours.open(address, "bulk")))
        return Outbox(channel, lambda error: self._neighbour_lost(assign.epoch, peer, str(error)))

    def _neighbour_lost(self, epoch: int, peer: str, reason: str) -> None:
        self._carry_out(self._state.neighbour_lost(epoch, peer, reason))

    # --- small things -----------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._quit is not None and not self._quit.done():
            # A bug in the shell must not leave a node that looks alive and does nothing.
            self._quit.set_exception(error)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def describe(device: Device) -> str:
    """The measurement in one sentence."""
    flops = ", ".join(f"{speed / 1e9:.0f} GFLOP/s in {dtype}" for dtype, speed in device.flops_per_s.items())
    size, unit = (device.memory_bytes / 1e9, "GB") if device.memory_bytes >= 1e9 else (device.memory_bytes / 1e6, "MB")
    memory = f"{size:.3g} {unit} to lend at {device.memory_bandwidth_bytes_per_s / 1e9:.0f} GB/s"
    return f"{device.name}: {flops}, {memory}, disk {device.disk_bandwidth_bytes_per_s / 1e6:.0f} MB/s."
