"""A running head: broker, HTTP door, client session and, if wanted, a worker of its own, in one event loop.

Composes; decides nothing. What happens is told through `announce`, whose events are the contract with `lab/processes`:

    listening  url, ticket, model            the door is open
    joined     node, name, region            a machine is here
    placed     epoch, stages                 [{node, name, region, first, last}]
    unpinned   node, reason                  a pin that is not kept, and why
    left       node, name                    a machine is gone
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from muster.api.app import create_app
from muster.api.keys import check_host
from muster.api.server import ApiServer
from muster.broker.placement import Served
from muster.broker.service import BrokerService
from muster.broker.state import BrokerOptions
from muster.broker.store import Store
from muster.cli.pins import check_apart, pins_of_lock
from muster.cli.place import (
    HeadRecord,
    admin_token,
    database_url,
    forget_head,
    last_link_port,
    remember_link_port,
    write_head,
)
from muster.cli.show import Announcer
from muster.cli.worker import door_of, shaped
from muster.client.session import Sessions
from muster.errors import InvalidRequest, MachineTrouble, NotAllowed
from muster.link.identity import Identity, held_identity
from muster.link.iroh import IrohEndpoint
from muster.model.blobs import DirectoryBlobs, Manifest, build_manifest
from muster.model.conformance import check_conformance
from muster.model.shape import check_tensors, shape_of
from muster.model.source import resolve, revision_of
from muster.model.weights import open_directory
from muster.node.measure import pick_device
from muster.node.worker import Worker, WorkerOptions
from muster.plan.serve.one_pipeline import one_pipeline
from muster.plan.serve.options import Pin
from muster.spec.model_shape import ModelShape
from muster.spec.request import Progress, Request
from muster.text.tokenizer import Tokenizer, load_tokenizer
from muster.wire.ticket import Ticket

log = structlog.get_logger()
WATCH_S = 0.25


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """`muster serve`'s options, checked."""

    model: str
    host: str
    port: int
    data_dir: Path
    local_worker: bool
    memory_bytes: int | None
    name: str | None
    region: str
    scenario: str | None
    dtype: str | None
    device: str
    max_context: int | None
    min_nodes: int
    link_port: int
    relay: str | None
    ticket_s: float
    pins: tuple[Pin, ...] = ()
    lock: Path | None = None
    """A plan whose stages are pins."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What the head itself knows of the model: everything but its weights in memory."""

    path: Path
    shape: ModelShape
    manifest: Manifest
    tokenizer: Tokenizer


def load_model(options: HeadOptions) -> LoadedModel:
    """Raises `MusterError`: unknown, unreadable, unsupported, or without a tokenizer."""
    path = resolve(options.model)
    check_conformance(open_directory(path).config_json)  # first, as whatever reads the configuration trips over it
    tokenizer = load_tokenizer(path)
    manifest = build_manifest(path, options.model, revision_of(options.model, path))
    check_tensors(manifest.config_json, {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors})
    shape = shape_of(manifest.config_json, options.model, options.dtype or default_dtype(options.device))
    if options.max_context is not None:
        if not 0 < options.max_context <= shape.max_context:
            raise InvalidRequest(
                f"--max-context is {options.max_context} but {options.model} takes 1 to {shape.max_context} tokens.",
                "max_context",
            )
        shape = replace(shape, max_context=options.max_context)
    return LoadedModel(path, shape, manifest, tokenizer)


def pins_of(options: HeadOptions, shape: ModelShape) -> tuple[Pin, ...]:
    """Raises `InvalidRequest` on pins that no pool could keep, or a plan that is none for this model."""
    pins = pins_of_lock(options.lock, shape) if options.lock is not None else options.pins
    check_apart(pins, shape)
    return pins


def default_dtype(device: str) -> str:
    """A CPU computes float32 faster than half precision, and exactly; other devices take bfloat16."""
    return "float32" if pick_device(device).type == "cpu" else "bfloat16"


class PoolBackend:
    """The API's view of the pool: sessions generate, the broker tells its state."""

    def __init__(self, model: LoadedModel, sessions: Sessions, service: BrokerService) -> None:
        self._model, self._sessions, self._service = model, sessions, service

    @property
    def model(self) -> str:
        return self._model.shape.name

    @property
    def max_context(self) -> int:
        return int(self._service.status()["max_context"]) or self._model.shape.max_context

    def generate(self, request: Request) -> AsyncIterator[Progress]:
        return self._sessions.generate(request)

    def status(self) -> Mapping[str, Any]:
        status = self._service.status()
        return status | {"resubmissions": self._sessions.state.resubmissions}


async def run_head(options: HeadOptions, announce: Announcer) -> None:
    """Runs until it is interrupted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        # Before anything is loaded: a second head in this folder should hear so at once.
        identity = stack.enter_context(held_identity(options.data_dir / "identity.key"))
        model = await asyncio.to_thread(load_model, options)
        pins = pins_of(options, model.shape)
        store = stack.enter_context(contextlib.closing(Store(database_url(options.data_dir))))
        check_host(options.host, has_keys=store.has_keys())
        endpoint = await bind_where_it_was(identity, options)
        service, ticket = await stack.enter_async_context(broker(options, model, pins, store, endpoint))
        # Whatever is entered later ends earlier: clients first, then what serves them.
        tasks = [asyncio.create_task(service.wait())]
        if options.local_worker:
            tasks.append(await stack.enter_async_context(background(local_worker(options, ticket, announce))))
        sessions = Sessions(
            lambda node: service.open(node, "data"),
            service.suspect,
            accuse=service.accuse,
            vocab_size=model.shape.vocab_size,
        )
        tasks.append(await stack.enter_async_context(background(sessions.run(service.watch()))))
        app = create_app(
            PoolBackend(model, sessions, service),
            model.tokenizer,
            keys=store,
            admin=service,
            admin_token=admin_token(options.data_dir),
        )
        server = await stack.enter_async_context(ApiServer(app, options.host, options.port))
        remember_link_port(options.data_dir, endpoint.port)
        write_head(options.data_dir, HeadRecord(server.url, options.model, ticket.encode(), os.getpid()))
        stack.callback(forget_head, options.data_dir)
        announce_door(announce, options, server.url, ticket)
        tasks.append(await stack.enter_async_context(background(watch(service, announce))))
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done - {stopped}:
            task.result()


@asynccontextmanager
async def broker(
    options: HeadOptions, model: LoadedModel, pins: tuple[Pin, ...], store: Store, endpoint: IrohEndpoint
) -> AsyncIterator[tuple[BrokerService, Ticket]]:
    """The broker behind its endpoint, and a fresh ticket."""
    blobs = DirectoryBlobs(model.path, model.manifest)

    def read_blob(digest: str, offset: int, length: int) -> tuple[bytes, int] | None:
        total = blobs.size(digest)
        return None if total is None else (blobs.read_range(digest, offset, length), total)

    eos = tuple(sorted(model.tokenizer.end_of_text_ids))
    served = Served(model.shape, model.manifest.digest, eos_token_ids=eos)
    service = BrokerService(served, store, read_blob, search=one_pipeline, options=broker_options(options, pins))
    await service.start(shaped(endpoint, options.scenario, service.region_of))
    try:
        yield service, await service.issue_ticket(options.ticket_s)
    finally:
        await service.close()


async def bind_where_it_was(identity: Identity, options: HeadOptions) -> IrohEndpoint:
    """At the port of last time, unless one is asked for: machines look for a restarted head where they knew it."""
    port = options.link_port or last_link_port(options.data_dir)
    try:
        endpoint = await IrohEndpoint.bind(identity, port, options.relay)
    except MachineTrouble:
        if options.link_port or not port:
            raise
        endpoint = await IrohEndpoint.bind(identity, 0, options.relay)
        log.warning("link.port_changed", taken=port, port=endpoint.port, remedy="give the machines a new ticket")
    return endpoint


def broker_options(options: HeadOptions, pins: tuple[Pin, ...]) -> BrokerOptions:
    defaults = BrokerOptions()
    placing = replace(defaults.placing, min_nodes=options.min_nodes, pins=pins)
    return replace(defaults, region=options.region, placing=placing)


async def local_worker(options: HeadOptions, ticket: Ticket, announce: Announcer) -> None:
    """This machine's own share of the work: a worker like any other, that happens to live here."""
    worker_options = WorkerOptions(
        name=options.name or socket.gethostname(),
        cache_dir=options.data_dir / "cache",
        region=options.region,
        device=pick_device(options.device),
        memory_cap_bytes=options.memory_bytes,
    )
    try:
        with held_identity(options.data_dir / "worker.key") as identity:
            endpoint = await IrohEndpoint.bind(identity)
            await Worker(endpoint, door_of(ticket), worker_options, quiet(announce)).run()
    except NotAllowed as error:  # the operator's wish; the head and the other machines go on
        announce("left", f"This machine computes no more: {error}", name=worker_options.name)
        await asyncio.Event().wait()


def quiet(announce: Announcer) -> Any:
    """The head tells of joins and placements itself; of its own worker only what nobody else says."""

    def tell(event: str, sentence: str, **facts: Any) -> None:
        if event in ("measured", "load_failed"):
            announce(event, sentence, **facts)

    return tell


def announce_door(announce: Announcer, options: HeadOptions, url: str, ticket: Ticket) -> None:
    line = ticket.encode()
    announce(
        "listening",
        f"{options.model} is served at {url}/v1 as soon as enough machines are here.\n"
        f"Join another machine with:\n\n  muster join {line}\n",
        url=url,
        ticket=line,
        model=options.model,
    )


async def watch(service: BrokerService, announce: Announcer) -> None:
    """Tell of machines that come and go and of every new placement."""
    here: dict[str, Mapping[str, Any]] = {}
    epoch, trouble = 0, ""
    unkept: dict[str, str] = {}
    while True:
        status = service.status()
        present = {node["id"]: node for node in status["nodes"] if node["state"] not in ("gone", "banned")}
        for node in present.values():
            if node["id"] not in here:
                facts = {"node": node["id"], "name": node["name"], "region": node["region"]}
                announce("joined", f"{node['name']} joined from {node['region'] or 'somewhere'}.", **facts)
        for node in here.values():
            if node["id"] not in present:
                announce("left", f"{node['name']} is gone.", node=node["id"], name=node["name"])
        if status["ready"] and status["epoch"] != epoch:
            sentence = "Serving: " + ", ".join(
                f"{stage['name']} holds layers {stage['first']}–{stage['last'] - 1}" for stage in status["placement"]
            )
            announce("placed", f"{sentence}.", epoch=status["epoch"], stages=status["placement"])
            epoch = status["epoch"]
        if status["reason"] != trouble:
            trouble = status["reason"]
            if trouble:
                announce("waiting", trouble, reason=trouble)
        now = {pin["node"]: pin["reason"] for pin in status["pins"] if status["ready"] and pin["reason"]}
        for node, reason in now.items():
            if unkept.get(node) != reason:
                announce("unpinned", f"The pin of {node} is not kept: {reason}", node=node, reason=reason)
        here, unkept = present, now
        await asyncio.sleep(WATCH_S)


@asynccontextmanager
async def background(work: Any) -> AsyncIterator["asyncio.Task[None]"]:
    """Run `work` beside the block and cancel it at its end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
