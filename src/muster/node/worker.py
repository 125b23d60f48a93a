"""The asyncio shell of a node: dials the head, carries out what `NodeState` decides, passes messages to its stages.

Knows nothing of scheduling or placement. Only dials out: every connection from the head comes back on the one that
this node opened.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from muster import __version__
from muster.errors import LinkDown, MusterError, NotAllowed, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.node.loading import StageLoader
from muster.node.measure import free_memory_bytes, measure_device
from muster.node.neighbours import Neighbours, Outbox, greet, measure_bandwidth
from muster.node.stages import Stages
from muster.node.state import Command, Drop, Load, NodeState, Quit, Rejoin, Say
from muster.spec.pool import Device
from muster.wire.messages import (
    PROTOCOL,
    Cancel,
    FetchBlob,
    Hello,
    BlobUnknown,
    Measured,
    PeerMeasured,
    Ping,
    Pong,
    Step,
    StepDone,
    Submit,
)
from muster.wire.ticket import Ticket, proof

log = structlog.get_logger()
TICK_S = 0.2
STRANGER_S = 15.0
"""A peer may dial a moment before the head tells us that it is a neighbour."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    name: str
    cache_dir: Path
    region: str = ""
    device: torch.device = torch.device("cpu")
    memory_cap_bytes: int | None = None
    """What the owner lends; None lends what is free."""
    speed: float = 1.0
    """Below 1 rehearses a slower machine."""
    drain_timeout_s: float = 60.0


class Worker:
    """Joins, serves until told to stop, leaves. `run` returns after a drain and raises `MusterError` on refusal."""

    def __init__(
        self, endpoint: Endpoint, ticket: Ticket, options: WorkerOptions, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._endpoint = endpoint
        self._ticket = ticket
        self._options = options
        self._say = say
        self._state = NodeState(endpoint.node_id)
        self._neighbours = Neighbours(endpoint)
        self._stages = Stages(options.speed, self._stage_broke)
        self._loader = StageLoader(options, self._neighbours, endpoint.node_id)
        self._control: Outbox | None = None
        self._head: Connection | None = None
        self._quit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._device: Device | None = None

    async def run(self) -> None:
        """Raises `MusterError` if the head refuses, cannot be reached the first time, or the drain takes too long."""
        self._say("measuring this machine")
        self._device = await asyncio.to_thread(
            measure_device,
            self._options.device,
            self._options.memory_cap_bytes,
            self._options.cache_dir,
            self._options.speed,
        )
        try:
            await self._join()
            self._spawn(self._accept_connections())
            self._spawn(self._tick_forever())
            await self._quit
        finally:
            await self._close()

    def drain(self) -> None:
        """Leave once what runs here has moved to other machines."""
        self._carry_out(self._state.drain(self._now(), self._options.drain_timeout_s))

    async def _join(self) -> None:
        head = await self._endpoint.dial(self._ticket.address())
        control = await head.open("control")
        await control.send(
            Hello(
                protocol=PROTOCOL,
                version=__version__,
                name=self._options.name,
                region=self._options.region,
                proof=proof(self._ticket.secret, self._endpoint.node_id, self._ticket.head),
                address=self._endpoint.address,
            )
        )
        self._head = head
        self._control = Outbox(control, lambda error: None)
        self._spawn(self._listen(head, control))
        self._spawn(self._accept_channels(head))

    async def _listen(self, head: Connection, control: Channel) -> None:
        try:
            while True:
                message, _ = await control.receive()
                was_joined = self._state.joined
                self._carry_out(self._state.heard(message, self._now()))
                if self._state.joined and not was_joined:
                    self._say("joined")
                    self._spawn(self._introduce(head))
        except (LinkDown, ProtocolViolation) as error:
            log.warning("head.lost", reason=str(error))
            if self._head is head:
                self._carry_out(self._state.head_lost(self._now()))

    async def _introduce(self, head: Connection) -> None:
        """Tell the head what this machine is, then how far away it is."""
        assert self._device is not None
        free = free_memory_bytes(self._options.device)
        self._carry_out([Say(Measured(device=self._device, free_memory_bytes=free))])
        try:
            bulk = await head.open("bulk")
            round_trip_s = await greet(bulk, head.peer)
            bandwidth = await measure_bandwidth(bulk, round_trip_s)
            await bulk.close()
        except (LinkDown, ProtocolViolation, TimeoutError) as error:
            log.info("measure.failed", peer=short_id(head.peer), reason=str(error))
            return
        self._carry_out(
            [Say(PeerMeasured(peer=head.peer, round_trip_s=round_trip_s, bandwidth_bytes_per_s=bandwidth))]
        )

    # --- commands ---------------------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Say(message):
                    if self._control is not None:
                        self._control.put(message)
                case Load(assign):
                    self._loads[assign.epoch] = self._spawn(self._load(assign))
                case Drop(epoch):
                    if task := self._loads.pop(epoch, None):
                        task.cancel()
                    self._spawn(self._stages.drop(epoch))
                case Rejoin(after_s):
                    self._spawn(self._rejoin(after_s))
                case Quit(error):
                    self._spawn(self._quit_soon(error))

    async def _quit_soon(self, error: MusterError | None) -> None:
        """After the goodbye has had a moment to leave."""
        await asyncio.sleep(0.2)
        if not self._quit.done():
            if error is None:
                self._quit.set_result(None)
            else:
                self._quit.set_exception(error)

    async def _rejoin(self, after_s: float) -> None:
        self._say(f"lost the head, trying again in {after_s:.1f} s")
        if self._control is not None:
            await self._control.close()
        if self._head is not None:
            await self._head.close()
        await asyncio.sleep(after_s)
        try:
            await self._join()
        except (LinkDown, ProtocolViolation) as error:
            log.warning("rejoin.failed", reason=str(error))
            self._carry_out(self._state.head_lost(self._now()))

    async def _load(self, assign) -> None:  # type: ignore[no-untyped-def]
        assert self._head is not None
        try:
            self._say(f"loading layers {assign.stages[assign.index].first}–{assign.stages[assign.index].last - 1}")
            loaded = await self._loader.load(assign, self._head, lambda message: self._carry_out([Say(message)]))
            self._stages.start(assign, loaded, lambda error: self._next_lost(assign, error))
        except MusterError as error:
            log.warning("load.failed", epoch=assign.epoch, reason=str(error))
            self._say(str(error))
            self._carry_out(self._state.load_failed(assign.epoch, error))
            return
        self._say(f"serving layers {assign.stages[assign.index].first}–{assign.stages[assign.index].last - 1}")
        self._carry_out(self._state.loaded(assign.epoch))
