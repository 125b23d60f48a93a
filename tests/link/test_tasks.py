"""Tasks that belong to somebody: their bugs surface, and they stop when told. Channels are served a few at a time."""

import asyncio
from contextlib import suppress

import pytest

from muster.errors import LinkDown
from muster.link.base import Channel
from muster.link.memory import MemoryNetwork
from muster.link.serving import serve_channels
from muster.link.tasks import Tasks

pytestmark = pytest.mark.anyio


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise ZeroDivisionError


async def test_a_bug_in_one_task_ends_the_owners_work_with_it() -> None:
    tasks = Tasks()
    tasks.spawn(forever())
    tasks.spawn(broken())
    with pytest.raises(ZeroDivisionError):
        await tasks.wait()
    await tasks.cancel()
    assert len(tasks) == 0


async def test_a_wanted_end_counts_before_what_breaks_later() -> None:
    tasks = Tasks()
    tasks.end()
    tasks.spawn(broken())
    await asyncio.sleep(0)
    await tasks.wait()


async def test_a_task_may_cancel_all_others_and_keep_some() -> None:
    tasks = Tasks()
    kept, stopped = tasks.spawn(forever()), tasks.spawn(forever())

    async def stop() -> None:
        await tasks.cancel(but={kept})

    await tasks.spawn(stop())
    assert stopped.cancelled()
    assert not kept.done()
    await tasks.cancel()


async def test_a_peer_has_so_many_channels_served_at_once_and_no_more() -> None:
    network, tasks = MemoryNetwork(), Tasks()
    here, there = network.endpoint("1" * 64), network.endpoint("2" * 64)
    connection = await here.dial(there.address)
    names: list[str] = []

    async def serve(name: str, channel: Channel) -> None:
        names.append(name)
        with suppress(LinkDown):
            await channel.receive()

    serving = asyncio.create_task(serve_channels(await there.accept(), serve, tasks, max_channels=2))
    first, _ = await connection.open("data"), await connection.open("bulk")
    with pytest.raises(LinkDown):
        await (await connection.open("data")).receive()
    await first.close()
    await asyncio.sleep(0.01)
    await connection.open("relay")
    await asyncio.sleep(0.01)
    assert names == ["data", "bulk", "relay"]
    assert len(tasks) == 2
    await connection.close()
    await serving
    await tasks.cancel()
