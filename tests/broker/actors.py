"""Simulated nodes and a fake clock around `BrokerState`, for tests that want to tell a story."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from muster.broker.events import (
    Close,
    Command,
    Disconnected,
    Event,
    Exercise,
    Exercised,
    Exert,
    Heard,
    NodeJoined,
    PipelineId,
    Refuse,
    Remembered,
    Route,
    RouteChanged,
    Save,
    Search,
    Send,
    Shown,
    Tick,
)
from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import Job, JobModel, JobOptions, SearchPlan
from muster.broker.pipelines.lifecycle import Lifecycle
from muster.broker.pipelines.serve import serve_job
from muster.broker.state import BrokerOptions, BrokerState
from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.plan.quick.planner import place
from muster.plan.quick.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device
from muster.wire.messages.base import PROTOCOL, Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Heartbeat, Hello, Measured, StageVitals, Welcome
from muster.wire.messages.placement import Assign, Loaded, LoadFailed, LoadProgress, Release
from muster.wire.ticket import proof

MIB = 2**20
SECRET = b"s" * 32
HEAD = "ff" * 32
WORKSPACE = WorkspaceOptions(prefill_tokens=64, samples=8)
PLANNING = PlanOptions(min_context=512, workspace=WORKSPACE, exact_nodes=6, max_sequences=2)


def shape(layers: int = 8, layer_mib: int = 100) -> ModelShape:
    return ModelShape(
        name="model",
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        num_layers=layers,
        hidden_size=1024,
        vocab_size=1000,
        max_context=2048,
        layer_bytes=(layer_mib * MIB,) * layers,
        layer_flops_per_token=(layer_mib * MIB,) * layers,
        kv_bytes_per_token=(4096,) * layers,
        embedding_bytes=20 * MIB,
        head_bytes=30 * MIB,
        head_flops_per_token=30 * MIB,
    )


TRUSTING = BrokerOptions(trust=TrustOptions(everybody=True))
SERVED = JobModel(shape(), manifest="ab" * 32, workspace=WORKSPACE)
PIPELINE = PipelineId("model")
"""The only one, unless a test says otherwise."""


def node_id(number: int) -> str:
    return f"{number:064x}"


def hello(node: str, *, secret: bytes = SECRET, protocol: int = PROTOCOL, **changes) -> Hello:
    fields = {"version": "0.1.0", "name": f"node-{int(node, 16)}", "region": "", "address": Address(node=node)}
    return Hello(protocol=protocol, proof=proof(secret, node, HEAD), **(fields | changes))


def measured(memory_mib: float, speed: float = 1.0, free_mib: float | None = None) -> Measured:
    device = Device(
        kind="cpu",
        name="simulated",
        memory_bytes=int(memory_mib * MIB),
        flops_per_s={"bfloat16": speed * 1e12},
        memory_bandwidth_bytes_per_s=speed * 1e10,
    )
    return Measured(device=device, free_memory_bytes=int((memory_mib if free_mib is None else free_mib) * MIB))


def honest(exercise: Exercise) -> Shown:
    """Everything that is asked for."""
    return Shown(dict(exercise.flops_per_s), exercise.held_bytes)


@dataclass
class Actor:
    """A node as the head sees it through one connection."""

    id: str
    connection: int
    stages: dict[int, Assign] = field(default_factory=dict)
    loaded: set[int] = field(default_factory=set)
    heard: list[AnyMessage] = field(default_factory=list)
    alive: bool = True
    """Whether the connection is open."""
    busy_s: float = 0.0
    """Computed so far, as its heartbeats say."""
    streams: int = 0
    """That it schedules, as its heartbeats say."""
    silent: bool = False
    """Whether it has stopped to say anything."""
    exercises: list[Exercise] = field(default_factory=list)
    """That it was asked to do."""
    show: Callable[[Exercise], Shown] | None = honest
    """What comes of one; None: nothing yet."""

    @property
    def serving_epoch(self) -> int:
        return max(self.loaded, default=0)

    def beat(self, *strange: int, **facts: Any) -> Heartbeat:
        """What it says about the stages that are loaded, and about `strange` ones that it made up."""
        stages = tuple(
            StageVitals(epoch, self.streams * (epoch == self.serving_epoch)) for epoch in sorted(self.loaded)
        )
        stages += tuple(StageVitals(epoch) for epoch in strange)
        return Heartbeat(**{"free_memory_bytes": 1, "stages": tuple(stages)} | facts)


class Stage:
    """The head on a fake clock with all its nodes; `say` is how everything enters."""

    def __init__(
        self,
        remembered: Remembered | None = None,
        options: BrokerOptions | None = None,
        served: JobModel = SERVED,
        job: JobOptions = JobOptions(),
        search: SearchPlan | None = None,
        jobs: Sequence[Job] | None = None,
    ):
        """With `jobs`, those instead of serving `served`. All machines are trusted, unless `options` say otherwise."""
        remembered = remembered or Remembered(secrets=[(SECRET, 1e12)])
        self.served = served
        planning = replace(PLANNING, codecs=job.planning.codecs)
        self.jobs = jobs or [serve_job(served, place, search, replace(job, planning=planning))]
        self.state = BrokerState(HEAD, self.jobs, options or TRUSTING, remembered)
        self.now_s = 1000.0
        self.actors: dict[int, Actor] = {}
        self.routes: list[Route | None] = []
        """All that was announced, whatever the pipeline."""
        self.route_of: dict[PipelineId, Route | None] = {}
        self.saved: list[object] = []
        self.searches: list[Search] = []
        self.refused: dict[int, str] = {}
        self.dialled = 0
        self.auto = True
        """Whether nodes answer assignments at once with `Loaded`."""

    # --- time and events --------------------------------------------------------------------------------------------

    def say(self, event: Event) -> list[Command]:
        commands = self.state.handle(event, self.now_s)
        self.state.check(self.now_s)
        for command in commands:
            self.carry_out(command)
        if self.auto:
            self.load_all()
        return commands

    def pass_time(self, seconds: float, step_s: float = 0.25) -> None:
        """Let the clock run; everybody alive sends heartbeats."""
        for _ in range(round(seconds / step_s)):
            self.now_s += step_s
            if self.now_s % 1.0 < step_s:
                for actor in list(self.actors.values()):
                    if actor.alive and not actor.silent:
                        self.heartbeat(actor)
            self.say(Tick())

    def pass_quietly(self, seconds: float, step_s: float = 0.25) -> None:
        """Let the clock run without a heartbeat; for tests that say themselves what each reports."""
        for _ in range(round(seconds / step_s)):
            self.now_s += step_s
            self.say(Tick())

    def heartbeat(self, actor: Actor) -> None:
        self.tell(actor, actor.beat(free_memory_bytes=0, busy_s=actor.busy_s))

    def tell(self, actor: Actor, message: AnyMessage) -> list[Command]:
        return self.say(Heard(actor.connection, message))

    # --- commands ---------------------------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        match command:
            case Send(connection, message):
                self.receive(self.actors[connection], message)
            case Refuse(connection, code, reason):
                self.refused[connection] = f"{code}: {reason}"
                self.hang_up(connection)
            case Close(connection, _):
                self.hang_up(connection)
            case RouteChanged(pipeline, route):
                self.routes.append(route)
                self.route_of[pipeline] = route
            case Save(record):
                self.saved.append(record)
            case Search():
                self.searches.append(command)
            case Exert(connection, exercise):
                actor = self.actors[connection]
                actor.exercises.append(exercise)
                if actor.show is not None:
                    self.say(Exercised(connection, actor.show(exercise)))

    def receive(self, actor: Actor, message: AnyMessage) -> None:
        if not actor.alive:
            return
        actor.heard.append(message)
        match message:
            case Welcome():
                actor.stages.clear()
                actor.loaded.clear()
            case Assign(epoch=epoch):
                assert actor.id in message.mine.members
                assert {peer.node for peer in message.peers} == set(message.pipeline.members())
                actor.stages[epoch] = message
            case Release(epoch=epoch):
                actor.stages.pop(epoch, None)
                actor.loaded.discard(epoch)

    def hang_up(self, connection: int) -> None:
        actor = self.actors[connection]
        actor.alive = False
        actor.stages.clear()
        actor.loaded.clear()

    # --- what nodes do ----------------------------------------------------------------------------------------------

    def dial(self, number: int, **changes) -> Actor:
        self.dialled += 1
        actor = Actor(node_id(number), connection=self.dialled)
        self.actors[actor.connection] = actor
        self.say(NodeJoined(actor.connection, actor.id, hello(actor.id, **changes), wall_s=1e9))
        return actor

    def join(self, number: int, memory_mib: float = 500, speed: float = 1.0, **changes) -> Actor:
        actor = self.dial(number, **changes)
        self.tell(actor, measured(memory_mib, speed))
        return actor

    def load_all(self) -> None:
        while waiting := [(a, e) for a in self.actors.values() if a.alive for e in a.stages if e not in a.loaded]:
            actor, epoch = waiting[0]
            self.finish_load(actor, epoch)

    def finish_load(self, actor: Actor, epoch: int) -> None:
        actor.loaded.add(epoch)
        self.say(Heard(actor.connection, LoadProgress(epoch=epoch, done_bytes=1, total_bytes=1)))
        self.say(Heard(actor.connection, Loaded(epoch=epoch)))

    def fail_load(self, actor: Actor, epoch: int, code: str = "model_does_not_fit") -> None:
        actor.stages.pop(epoch, None)
        self.say(Heard(actor.connection, LoadFailed(epoch=epoch, code=code, reason="It does not fit; lend more.")))

    def cut(self, actor: Actor) -> None:
        self.hang_up(actor.connection)
        self.say(Disconnected(actor.connection))

    def needs(self, actor: Actor, epoch: int) -> int:
        """Bytes that the assignment takes."""
        assign = actor.stages[epoch]
        stage = assign.stages[assign.index]
        tokens = assign.pipeline.serve.cache_tokens
        return stage_bytes(self.served.shape, stage.first, stage.last, tokens, self.served.workspace, stage.degree)

    # --- what one wants to know -------------------------------------------------------------------------------------

    @property
    def lifecycle(self) -> Lifecycle:
        return self.state.pipelines[PIPELINE]

    @property
    def route(self) -> Route | None:
        return self.routes[-1] if self.routes else None

    def ranges(self) -> dict[int, tuple[int, int]]:
        """Node number -> layers, of what serves."""
        assert self.route is not None
        return {int(stage.node, 16): (stage.first, stage.last) for stage in self.route.pipeline.stages}

    def at(self, number: int) -> Actor:
        """The open connection of a node."""
        return next(a for a in reversed(self.actors.values()) if a.id == node_id(number) and a.alive)


def pool_of(*sizes: float, speeds: tuple[float, ...] = ()) -> Stage:
    """A settled pool that serves: nodes 1, 2, … lend `sizes` MiB."""
    stage = Stage()
    for number, size in enumerate(sizes, start=1):
        stage.join(number, size, speeds[number - 1] if speeds else 1.0)
    stage.pass_time(2)
    assert stage.route is not None, stage.lifecycle.trouble
    return stage
