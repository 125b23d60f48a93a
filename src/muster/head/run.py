"""A running head, from its first file to an interrupt. Decides nothing; what it is made of is wired in `compose`."""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from muster.api.keys import check_host
from muster.api.origins import Origins
from muster.api.server import ApiServer
from muster.broker.pipelines.job import PlannedPipeline
from muster.broker.storage.store import Store
from muster.client.state import Patience
from muster.head.bind import bind_where_it_was
from muster.head.compose import Head
from muster.head.data_directory import (
    HeadRecord,
    admin_token,
    database_url,
    forget_head,
    remember_link_port,
    write_head,
)
from muster.head.local_worker import local_worker
from muster.head.model import load_draft, load_model
from muster.head.options import HeadOptions, broker_options, job_options
from muster.head.pins import check_apart, pipelines_of_plan
from muster.head.watch import announce_door, watch
from muster.link.identity import held_identity
from muster.link.iroh import IrohEndpoint
from muster.link.shaped import shaped_as
from muster.model import apart
from muster.node.announce import Announce
from muster.node.process import import_worker, leave_threads_behind, on_interrupt
from muster.spec.model_shape import ModelShape

log = structlog.get_logger()


async def run_head(options: HeadOptions, announce: Announce) -> None:
    """Runs until it is interrupted."""
    Origins(options.door.allow_origins)  # what is wrong with them should be heard before a model is read
    leave_threads_behind()
    task = asyncio.create_task(_run(options, announce))

    def interrupted() -> None:
        on_interrupt(lambda: os._exit(1))
        announce("stopping", "Stopping. Ctrl-C once more ends at once.")
        task.cancel()

    on_interrupt(interrupted)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise


async def _run(options: HeadOptions, announce: Announce) -> None:
    async with AsyncExitStack() as stack:
        # Before anything is loaded: a second head in this folder should hear so at once.
        identity = stack.enter_context(held_identity(options.data_dir / "identity.key"))
        own = None
        if options.local_worker:
            own = stack.enter_context(held_identity(options.data_dir / "worker.key"))
            # The worker's imports take longer than all else together.
            await stack.enter_async_context(background(asyncio.to_thread(import_worker)))
            await asyncio.sleep(0)  # it has begun: what needs torch to be checked is checked here, and not apart
        stack.callback(apart.end)
        announce("reading", f"Reading {options.model}.", model=options.model)
        model = await asyncio.to_thread(
            load_model, options.model, options.planned_dtype, options.max_context, options.planned_few_bits
        )
        stack.callback(model.tokenizer.close)
        if model.tokenizer.chat_refusal is not None:
            log.warning("chat.refused", reason=model.tokenizer.chat_refusal)
        draft = None
        if options.draft is not None:
            announce("reading", f"Reading {options.draft}.", model=options.draft)
            draft = await asyncio.to_thread(load_draft, options.draft, model, options.planned_dtype)
        planned = planned_of(options, model.shape)
        store = stack.enter_context(contextlib.closing(Store(database_url(options.data_dir))))
        check_host(options.host, has_keys=store.has_keys())
        own_machine = own.node_id if own is not None else None
        broker = broker_options(options, own_machine, store.nodes())
        endpoint = await bind_where_it_was(identity, options.data_dir, options.link_port, options.relay)
        patience = Patience(new_request_s=options.wait_for_pipeline_s)
        job = job_options(options, planned, own_machine)
        head = Head(model, store, broker, job, patience=patience, draft=draft)
        await stack.enter_async_context(started(head, endpoint, options.scenario))
        ticket = await head.service.issue_ticket(options.ticket_s)
        # Whatever is entered later ends earlier: clients first, then what serves them.
        tasks = [asyncio.create_task(head.service.wait())]
        if own is not None:
            tasks.append(await stack.enter_async_context(background(local_worker(options, own, ticket, announce))))
        tasks.append(await stack.enter_async_context(background(head.follow())))
        app = head.app(admin_token(options.data_dir), options.door)
        server = await stack.enter_async_context(ApiServer(app, options.host, options.port))
        remember_link_port(options.data_dir, endpoint.port)
        write_head(options.data_dir, HeadRecord(server.url, model.shape.name, ticket.encode(), os.getpid()))
        stack.callback(forget_head, options.data_dir)
        announce_door(announce, model.shape.name, server.url, ticket)
        tasks.append(await stack.enter_async_context(background(watch(head.service, announce, own is not None))))
        # What is here by now stays: to go through it again and again for garbage would hold up everybody.
        gc.freeze()
        # At the end before all else: what leaves then leaves with the pool, and nobody is to take its place.
        stack.callback(head.service.stand_still)
        stack.callback(head.sessions.stop)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def planned_of(options: HeadOptions, shape: ModelShape) -> tuple[PlannedPipeline, ...]:
    """Of the plan, if there is one.

    Raises `InvalidRequest` on pins that no pool could keep, or a plan that is none for this model.
    """
    check_apart(options.pins, shape)
    return () if options.plan is None else pipelines_of_plan(options.plan, shape)


@asynccontextmanager
async def started(head: Head, endpoint: IrohEndpoint, scenario: str | None) -> AsyncIterator[None]:
    await head.start_broker(shaped_as(scenario, endpoint, lambda node: head.service.region_of(node)))
    try:
        yield
    finally:
        await head.service.close()


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Run `work` beside the block and cancel it at its end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
