"""The asyncio shell of a node: dials the head, carries out what `NodeState` decides, passes messages to its stages.

Knows nothing of scheduling or placement, and no kind of work: those come in as `Kinds`. Workers only dial out: what
the head wants to say comes back on the connection that this node opened, and other nodes are dialled when a placement
makes them neighbours.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass

import structlog
from msgspec.structs import replace

from muster import __version__
from muster.errors import LinkDown, MachineTrouble, MusterError, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.identity import Identity
from muster.link.outbox import Outbox
from muster.link.relay import RelayCarrier
from muster.link.tasks import Tasks
from muster.node.announce import Announce, describe
from muster.node.events import (
    Command,
    DrainAsked,
    Drop,
    Event,
    HeadLost,
    Heard,
    Load,
    NeighbourLost,
    Pass,
    Quit,
    Rejoin,
    Say,
    StageFailed,
    StageReady,
    Tick,
)
from muster.node.incoming import Incoming
from muster.node.lending import Measure, WorkerOptions, measured
from muster.node.loading import StageLoader
from muster.node.measure import free_memory_bytes
from muster.node.memory import less_than_promised
from muster.node.neighbours import Neighbours
from muster.node.place import NodePlace, Surroundings
from muster.node.reports import LinkReports
from muster.node.runners.base import Kinds
from muster.node.runners.registry import PRODUCTION
from muster.node.showing import Showing
from muster.node.stages import Stages
from muster.node.state import FIRST_REJOIN_S, MAX_REJOIN_S, NodeState
from muster.spec.pool import Device
from muster.wire.messages.base import PROTOCOL, Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Hello, Measured, Welcome
from muster.wire.messages.placement import Assign

log = structlog.get_logger()
TICK_S = 0.2
SETTLE_S = 60.0
"""How long the last step of a dropped stage may take before the next stage is loaded."""


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
        kinds: Kinds = PRODUCTION,
        identity: Identity | None = None,
    ) -> None:
        """`regions` is filled with the region of every node we hear of, for whoever shapes the links.

        `measure` says what this machine can do, in a thread; by default it is measured. `kinds` are the kinds of work
        that it takes. `identity` is the endpoint's; without it nothing is signed here.
        """
        self._endpoint = endpoint
        self._door = door
        self._options = options
        self._announce = announce
        self._regions = regions if regions is not None else {}
        self._measure = measure or measured
        self._kinds = kinds
        self._identity = identity
        self._speed = options.speed
        self._state = NodeState(endpoint.node_id, kinds.check)
        self._tasks = Tasks()
        self._neighbours = Neighbours(endpoint)
        self._reports = LinkReports(self._neighbours, self._tell, self._tasks)
        self._stages = Stages(endpoint.node_id, door.address.node, self._neighbour_lost)
        self._incoming = Incoming(self._stages, self._tasks)
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._drops: set[asyncio.Task[None]] = set()
        self._control: Outbox | None = None
        self._head: Connection | None = None
        self._device: Device | None = None
        self._loader: StageLoader | None = None

    async def run(self) -> None:
        """Serve until drained. Raises `MusterError` if refused, or the drain takes too long."""
        options = self._options
        self._announce("measuring", "Measuring this machine.")
        self._device = await asyncio.to_thread(self._measure, options)
        promised = options.memory_bytes if options.memory_cap_bytes is None else None  # a rehearsed cap is no surprise
        short = less_than_promised(promised, self._device.memory_bytes, options.device.type)
        self._announce("measured", describe(self._device) + short, device=asdict(self._device))
        self._loader = StageLoader(options.cache_dir, options.device, self._device, options.disk_dir)
        self._incoming.showing = Showing(options.device, self._device.memory_bytes, self._loader, self._loads)
        try:
            self._tasks.spawn(self._first_join())
            self._tasks.spawn(self._incoming.connections(self._endpoint))
            self._tasks.spawn(self._tick_forever())
            self._tasks.spawn(self._reports.tell_round_trips())
            await self._tasks.wait()
        finally:
            await self._close()

    @property
    def is_open(self) -> bool:
        """Whether there is something to drain: it has been measured, and has not left."""
        return self._loader is not None

    def drain(self) -> None:
        """Leave once what runs here has moved to other machines."""
        moves, patience_s = bool(self._state.joined and self._state.stages), self._options.drain_timeout_s
        sentence = (
            f"Draining: for up to {patience_s:.0f} s this waits until other machines hold the layers that are here. "
            "Ctrl-C once more leaves at once."
        )
        self._announce("draining", sentence if moves else "Leaving.")
        self._handle(DrainAsked(patience_s))

    def rehearse(self, speed: float) -> None:
        """Be a machine of this speed from the next step of every stage on; the head is left to find out."""
        self._speed = speed

    async def _close(self) -> None:
        await self._tasks.cancel()
        await self._stages.close()
        if self._control is not None:
            await self._control.close()
        await self._neighbours.close()
        await self._endpoint.close()

    # --- the head ---------------------------------------------------------------------------------------------------

    async def _first_join(self) -> None:
        """As patient as a machine that lost its head: both may start with the computers that they run on."""
        pause_s, said = FIRST_REJOIN_S, False
        while True:
            try:
                await self._join()
                return
            except (LinkDown, ProtocolViolation) as error:
                if self._options.once or isinstance(error, ProtocolViolation):
                    self._tasks.end(error)
                    return
                if not said:
                    self._announce("head_missing", f"{error} Trying again until it answers.", reason=str(error))
                said = True
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_REJOIN_S, 2 * pause_s)

    async def _join(self) -> None:
        head = await self._endpoint.dial(self._door.address)
        control = await head.open("control")
        hello = Hello(
            protocol=PROTOCOL,
            version=__version__,
            name=self._options.name,
            region=self._options.region,
            island=self._options.island,
            owner=self._options.owner,
            proof=self._door.prove(self._endpoint.node_id),
            address=replace(self._endpoint.address, region=self._options.region),
        )
        await control.send(hello)
        self._head = head
        self._control = Outbox(control)
        self._tasks.spawn(self._listen(head, control))
        self._tasks.spawn(self._incoming.channels(head, head=True))

    async def _listen(self, head: Connection, control: Channel) -> None:
        try:
            while True:
                message, _ = await control.receive()
                was_joined = self._state.joined
                self._learn_regions(message)
                self._handle(Heard(message))
                if self._state.joined and not was_joined:
                    self._tell_joined(head, message)
                    self._tasks.spawn(self._introduce(head))
                    self._tasks.spawn(self._relay_through(head))
        except (LinkDown, ProtocolViolation) as error:
            if self._head is head:
                log.info("head.lost", reason=str(error))  # the sentence that is announced warns
                self._handle(HeadLost())

    def _tell_joined(self, head: Connection, message: AnyMessage) -> None:
        name = message.name if isinstance(message, Welcome) else ""
        other = f", which calls this machine {name}" if name not in ("", self._options.name) else ""
        facts = {"node": self._endpoint.node_id, "name": name}
        self._announce("joined", f"Joined the pool of {short_id(head.peer)}{other}.", **facts)

    async def _introduce(self, head: Connection) -> None:
        """Tell the head what this machine is, how far away the head is, and what was measured before."""
        assert self._device is not None
        self._tell(Measured(device=self._device, free_memory_bytes=self._free_memory_bytes()))
        await self._reports.measure(head.peer, lambda: head.open("bulk"))
        self._reports.tell_again()

    async def _relay_through(self, head: Connection) -> None:
        """A carrier through the head, for peers that cannot be dialled."""
        try:
            carrier = RelayCarrier(self._endpoint.node_id, await head.open("relay"))
            self._neighbours.carrier = carrier
            self._tasks.spawn(self._incoming.relayed(carrier))
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
            log.info("rejoin.failed", reason=str(error))  # the sentence that is announced warns
            self._handle(HeadLost())

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._loader is not None:
                self._loader.tidy()
            self._handle(Tick(self._stages.vitals(self._free_memory_bytes())))

    def _free_memory_bytes(self) -> int:
        free = free_memory_bytes(self._options.device)
        if self._loader is not None:
            free += self._loader.idle_bytes
        return free if self._device is None else min(free, self._device.memory_bytes)

    # --- events and commands ----------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        self._carry_out(self._state.handle(event, asyncio.get_running_loop().time()))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Say(message):
                    self._tell(message)
                case Load(assign):
                    self._stages.expect(assign)
                    self._loads[assign.epoch] = self._tasks.spawn(self._load(assign))
                case Drop(epoch):
                    drop = self._tasks.spawn(self._drop(epoch, self._loads.pop(epoch, None)))
                    self._drops.add(drop)
                    drop.add_done_callback(self._drops.discard)
                case Pass(message):
                    self._stages.receive(self._door.address.node, message, b"", lambda answer, _: self._tell(answer))
                case Rejoin(after_s):
                    self._tasks.spawn(self._rejoin(after_s))
                case Quit(error):
                    self._tasks.spawn(self._quit_soon(error))

    def _tell(self, message: AnyMessage) -> None:
        if self._control is not None:
            self._control.put(message)

    async def _quit_soon(self, error: MusterError | None) -> None:
        await asyncio.sleep(TICK_S)  # the goodbye needs a moment to leave
        self._tasks.end(error)

    async def _drop(self, epoch: int, load: "asyncio.Task[None] | None") -> None:
        if load is not None:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        await self._stages.drop(epoch)
        if self._loader is not None:
            self._loader.release(epoch)

    async def _settle(self) -> None:
        """Wait until what was dropped or shown before is gone. Raises `MachineTrouble` where a step does not end."""
        await self._incoming.give_way()
        if drops := set(self._drops):
            _, hanging = await asyncio.wait(drops, timeout=SETTLE_S)
            if hanging:
                raise MachineTrouble(
                    f"A step of an earlier placement still computes after {SETTLE_S:.0f} s and keeps its memory; "
                    "restart this node."
                )

    async def _load(self, assign: Assign) -> None:
        mine = assign.mine
        layers = f"layers {mine.first}–{mine.last - 1}"
        facts = {"epoch": assign.epoch, "first": mine.first, "last": mine.last}
        self._announce("loading", f"Loading {layers}.", **facts)
        place = NodePlace(assign, self._head, self._surroundings())
        try:
            await self._settle()
            runner = await self._kinds.build(place)
        except BaseException as error:
            await place.close()
            if not isinstance(error, Exception):
                raise
            # Not only what we foresaw: what a model's files and its configuration can make go wrong has no end, and
            # the next placement may be a good one.
            trouble = error if isinstance(error, MusterError) else MusterError(f"Loading broke ({error!r:.200}).")
            log.info("load.failed", epoch=assign.epoch, reason=str(trouble), exc_info=trouble is not error)
            self._announce("load_failed", f"Could not load {layers}: {trouble}", **facts, reason=str(trouble))
            self._handle(StageFailed(assign.epoch, trouble))
            return
        finally:
            self._loads.pop(assign.epoch, None)
        self._stages.start(place, runner)
        self._announce("serving", f"{self._kinds.verb(assign)} {layers}.", **facts)
        self._handle(StageReady(assign.epoch))

    def _surroundings(self) -> Surroundings:
        assert self._loader is not None
        return Surroundings(
            node=self._endpoint.node_id,
            identity=self._identity,
            head=self._door.address.node,
            speed=lambda: self._speed,
            loader=self._loader,
            neighbours=self._neighbours,
            tell=self._tell,
            lost=self._neighbour_lost,
            admit=self._stages.admit,
            reached=self._reports.reached,
        )

    def _neighbour_lost(self, epoch: int, peer: str, reason: str) -> None:
        self._handle(NeighbourLost(epoch, peer, reason))
