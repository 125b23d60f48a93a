"""A whole pool in one process: head, HTTP door and workers as they run in production, in an event loop of their own.

Everything is real but the wire (in memory, unless told otherwise) and the measurement of the machines (made up, so
that the placement is always the same). Its books are checked after every event. Tests talk to it from outside the loop.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from openai import OpenAI

from muster.api.server import ApiServer
from muster.broker.events import Route
from muster.broker.members.membership import LeaseOptions
from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import Job, JobOptions
from muster.broker.service import BrokerService
from muster.broker.state import BrokerOptions
from muster.broker.storage.store import Store
from muster.client.session import Sessions
from muster.client.state import Patience
from muster.cost.memory import WorkspaceOptions, draft_bytes, stage_bytes
from muster.head.compose import Head
from muster.head.model import load_draft, load_model
from muster.link.base import Endpoint
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.memory import MemoryNetwork
from muster.node.lending import Measure, WorkerOptions
from muster.node.process import door_of
from muster.node.runners.base import Kinds
from muster.node.runners.registry import PRODUCTION
from muster.node.runners.serve.first import FirstStage
from muster.node.worker import Worker
from muster.serve.engine import Engine
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device
from muster.spec.request import Progress, Request
from muster.wire.ticket import Ticket

Result = TypeVar("Result")
SLOW = 1e9
"""FLOP/s and bytes/s of every machine: so slow that the planner takes as many as there are."""
LEASES = LeaseOptions(heartbeat_s=0.2, lease_s=2.0, rest_s=0.2)
JOB = JobOptions(min_nodes=4, settle_s=0.3, longest_settle_s=10.0, retry_s=0.1, rebalance_s=1.0)
PATIENCE = Patience(new_request_s=60.0, no_pipeline_s=60.0, silence_s=3.0)
WAIT_S = 60.0


@dataclass(slots=True)
class Machine:
    """One worker of the pool."""

    name: str
    endpoint: Endpoint
    worker: Worker
    task: "asyncio.Task[None]"

    @property
    def id(self) -> str:
        return self.endpoint.node_id


def room_for(shape: ModelShape, layers: int, tokens: int) -> int:
    """Memory for any run of `layers` layers with `tokens` tokens of cache."""
    starts = range(shape.num_layers - layers + 1)
    return max(stage_bytes(shape, first, first + layers, tokens, WorkspaceOptions()) for first in starts)


class LivePool:
    """`with LivePool(folder, model) as pool: pool.client().models.list()`"""

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        iroh: bool = False,
        keys: bool = False,
        max_layers: int = 0,
        options: JobOptions = JOB,
        beside: tuple[Job, ...] = (),
        kinds: Kinds = PRODUCTION,
        patient: bool = False,
        strangers: bool = False,
        draft: str | None = None,
        host_memory_bytes: int = 0,
        islands: Sequence[str] = ("",) * 4,
    ):
        """Every machine has room for `max_layers` layers (by default as many as four machines need, and one more).

        `options` are those of the model that is served; the jobs `beside` it may need other `kinds` of work. A
        `patient` pool takes no machine for lost that others on this computer keep from working for a while. `strangers`
        show what they claim; otherwise all machines are the operator's own. `islands` are those of the machines that
        are made next.
        """
        self.folder, self.iroh, self.network = folder, iroh, MemoryNetwork()
        self.machines: list[Machine] = []
        self.troubles: list[str] = []
        """What went wrong behind the scenes; empty at the end of a good test."""
        self._model_name, self._keys, self._max_layers = model, keys, max_layers
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self.troubles.append(str(context)))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._clients: list[OpenAI] = []
        self._options, self._beside, self._kinds = options, beside, kinds
        self._patient, self._trust = patient, TrustOptions(everybody=not strangers)
        self._draft_name = draft
        self._host_memory_bytes = host_memory_bytes
        self.islands = list(islands)
        self._made = 0

    # --- from outside the loop ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        try:
            self.run(self._stop())
        finally:
            self._stop_loop()
        if error is None:
            assert self.troubles == [], "\n".join(self.troubles)

    def _stop_loop(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Result], seconds: float = WAIT_S) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def client(self, key: str = "unused") -> OpenAI:
        client = OpenAI(base_url=f"{self.server.url}/v1", api_key=key, max_retries=0, timeout=120)
        self._clients.append(client)
        return client

    def until(self, what: str, condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
        """Wait for `condition`, which is looked at inside the loop."""

        async def look() -> bool:
            return condition()

        deadline = time.monotonic() + seconds
        while not self.run(look()):
            assert time.monotonic() < deadline, f"{what} did not come about; {self.describe()}"
            time.sleep(0.02)

    def route(self, job: str = "") -> Route | None:
        """Of the model that is served, unless another job is named."""
        return max(self.routes(job), key=lambda route: route.epoch, default=None)

    def routes(self, job: str = "") -> tuple[Route, ...]:
        """Likewise of all pipelines that are up."""
        return self.service.routes(job or self.head.job.name)

    def until_serving(
        self, stages: int | None = None, without: Sequence[Machine] = (), after: int = 0, job: str = ""
    ) -> Route:
        """Wait for a route later than epoch `after`, of so many stages, that avoids some machines."""
        avoided = {machine.id for machine in without}

        def good() -> bool:
            route = self.route(job)
            if route is None or route.epoch <= after or avoided & set(route.pipeline.nodes()):
                return False
            return stages is None or len(route.pipeline.stages) == stages

        self.until("a pipeline", good)
        route = self.route(job)
        assert route is not None
        return route

    def until_idle(self) -> None:
        """Wait until no engine does anything for anybody, then check its books."""
        self.until("rest", lambda: all(self._is_idle(machine) for machine in self.machines))
        for machine in self.machines:
            for engine in engines(machine):
                engine.check()

    def serving(self, index: int) -> Machine:
        """The machine that holds stage `index` now."""
        route = self.route()
        assert route is not None
        node = route.pipeline.stages[index].node
        return next(machine for machine in self.machines if machine.id == node)

    def ask(self, requests: Sequence[Request], at_once: bool = True, seconds: float = WAIT_S) -> dict[str, list[int]]:
        """The tokens of requests that run to their full length, as the API would make them, by id."""

        async def ask_all() -> list[list[int]]:
            if at_once:
                return list(await asyncio.gather(*map(self._ask, requests)))
            return [await self._ask(request) for request in requests]

        tokens = self.run(ask_all(), seconds)
        return {request.id: answer for request, answer in zip(requests, tokens, strict=True)}

    def ask_later(self, requests: Sequence[Request]) -> "Future[dict[str, list[int]]]":
        """The same while the test goes on."""

        async def ask_all() -> dict[str, list[int]]:
            answers = await asyncio.gather(*map(self._ask, requests))
            return {request.id: answer for request, answer in zip(requests, answers, strict=True)}

        return asyncio.run_coroutine_threadsafe(ask_all(), self._loop)

    def add_machine(self, max_layers: int = 0, **given: Any) -> Machine:
        return self.run(self._add_machine(max_layers, **given))

    def kill(self, machine: Machine) -> None:
        """As a power cut: no goodbye, and nothing of it runs any more."""
        self.run(self._kill(machine))

    def restart_broker(self) -> None:
        self.run(self._restart_broker())

    def status(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            return self.service.status()

        return self.run(ask())

    def pool_file(self) -> str:
        """The pool as the head knows it now, as a pool file."""
        return self.run(self.service.pool_file())

    def describe(self) -> str:
        route, status = self.route(), self.status()
        stages = [(s.node[:6], s.first, s.last) for s in route.pipeline.stages] if route else None
        nodes = [(node["name"], node["state"]) for node in status["nodes"]]
        return f"route {stages}, {status['reason']!r}, {nodes}, live {list(self.sessions.state.live)}"

    # --- inside the loop ----------------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> list[int]:
        steps: list[Progress] = [progress async for progress in self.sessions.generate(request)]
        assert steps[-1].finish == "length"
        return [*request.emitted, *(sampled.token for step in steps for sampled in step.tokens)]

    async def _start(self) -> None:
        self.model = await asyncio.to_thread(load_model, self._model_name, "float32")
        named = self._draft_name
        self.draft = None if named is None else await asyncio.to_thread(load_draft, named, self.model, "float32")
        self.store = Store.at(self.folder / "pool.db")
        self.key = self.store.add_key("tests")[0] if self._keys else "unused"
        self._identity = identity_of("head")
        options = BrokerOptions(trust=self._trust)
        if not self._patient:
            options = replace(options, leases=LEASES, hang_s=1.0)
        self.head = Head(
            self.model,
            self.store,
            options,
            self._options,
            beside=self._beside,
            search=None,
            patience=None if self._patient else PATIENCE,
            draft=self.draft,
        )
        await self._start_broker()
        self.ticket = await self.service.issue_ticket(3600)
        check_after(self.sessions, "_carry_out", self.sessions.state.check, self.troubles)
        self._following = asyncio.create_task(self.sessions.run(self._routes()))
        self.server = await ApiServer(self.head.app(), port=0).__aenter__()
        for _ in range(len(self.islands)):
            await self._add_machine(self._max_layers)

    async def _start_broker(self) -> None:
        endpoint = (
            await IrohEndpoint.bind(self._identity, host="127.0.0.1")
            if self.iroh
            else self.network.endpoint(self._identity.node_id)
        )
        await self.head.start_broker(endpoint)
        state = self.service._state
        check_after(self.service, "_handle", lambda: state.check(asyncio.get_running_loop().time()), self.troubles)

    @property
    def service(self) -> BrokerService:
        return self.head.service

    @property
    def sessions(self) -> Sessions:
        return self.head.sessions

    async def _restart_broker(self) -> None:
        await self.service.close()
        await self._start_broker()

    async def _routes(self) -> AsyncIterator[tuple[Route, ...]]:
        """The routes of whichever broker runs now, across restarts."""
        seen: tuple[Route, ...] | None = None
        while True:
            while self.routes() == seen:
                await asyncio.sleep(0.005)
            seen = self.routes()
            yield seen

    async def _add_machine(
        self, max_layers: int = 0, name: str = "", ticket: Ticket | None = None, measure: Measure | None = None
    ) -> Machine:
        self._made += 1
        name = name or f"machine-{self._made}"
        identity = identity_of(name)
        if self.iroh:
            endpoint: Endpoint = await IrohEndpoint.bind(identity, host="127.0.0.1")
        else:
            endpoint = self.network.endpoint(identity.node_id)
        layers = max_layers or -(-self.model.shape.num_layers // 4) + 1
        cap = room_for(self.model.shape, layers, 4 * self.model.shape.max_context)
        cap += 0 if self.draft is None else draft_bytes(self.draft.shape)
        options = WorkerOptions(
            name=name, cache_dir=self.folder / name, memory_cap_bytes=cap, host_memory_bytes=self._host_memory_bytes
        )
        options = replace(options, island=self.islands.pop(0) if self.islands else "")
        given: Any = {"measure": measure or made_up, "kinds": self._kinds, "identity": identity}
        worker = Worker(endpoint, door_of(ticket or self.ticket), options, **given)
        machine = Machine(name, endpoint, worker, asyncio.create_task(worker.run()))
        self.machines.append(machine)
        return machine

    async def _kill(self, machine: Machine) -> None:
        self.machines.remove(machine)
        endpoint: Any = machine.endpoint
        endpoint.crash()
        machine.task.cancel()
        await asyncio.gather(machine.task, return_exceptions=True)

    async def _stop(self) -> None:
        await self.server.stop()
        for machine in self.machines:
            machine.task.cancel()
        ends = await asyncio.gather(*(machine.task for machine in self.machines), return_exceptions=True)
        self.troubles += [repr(end) for end in ends if isinstance(end, Exception)]
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self.service.close()
        self.store.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            await asyncio.wait(left, timeout=2.0)
        self.troubles += [f"still running: {task}" for task in left if not task.done()]

    @staticmethod
    def _is_idle(machine: Machine) -> bool:
        return not any(stage.active_requests for stage in machine.worker._stages.vitals(0).stages) and all(
            not engine.has_work and engine.in_flight == 0 and not engine._sequences for engine in engines(machine)
        )


def engines(machine: Machine) -> list[Engine[Any]]:
    held = machine.worker._stages._held.values()
    return [one.runner._engine for one in held if isinstance(one.runner, FirstStage)]


def check_after(owner: object, method: str, check: Callable[[], None], troubles: list[str]) -> None:
    """Whenever `method` has run, so does `check`."""
    inner = getattr(owner, method)

    def checked(*arguments: Any) -> None:
        inner(*arguments)
        try:
            check()
        except AssertionError as error:
            troubles.append(f"after {method}{arguments}: {error}")

    setattr(owner, method, checked)


def identity_of(name: str) -> Identity:
    """The same on every run, because the planner breaks ties by node id."""
    return Identity.from_secret(sha256(name.encode()).digest())


def made_up(options: WorkerOptions) -> Device:
    assert options.memory_cap_bytes is not None
    cap, host = options.memory_cap_bytes, options.host_memory_bytes
    return Device("cpu", "made up", cap, {"float32": SLOW}, SLOW, SLOW, SLOW, host)
