"""A private session in an ordinary pool: an OpenAI client at its door, and a machine that dies in mid-stream."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.api.app import create_app
from muster.api.server import ApiServer
from muster.errors import DoesNotFit, InvalidRequest, MusterError, TicketInvalid
from muster.head.private import PoolMachines, PrivateOptions, private_requests
from muster.head.run import background
from muster.model.weights import open_directory
from muster.wire.ticket import Ticket
from tests.flows.live_pool import JOB, LivePool, identity_of

ALONE = replace(JOB, min_nodes=1, settle_s=0.1)
TEXT = "Nobody alone may read this sentence, which is long enough for every machine to get a part of it."


@pytest.fixture(scope="module")
def pool(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("private")
    with LivePool(folder, str(model_path), options=ALONE, max_layers=8, islands=("",) * 5) as made:
        made.until_serving(stages=1)
        yield made


def machines(pool: LivePool, name: str, ticket: Ticket | None = None, **changes: Any) -> PoolMachines:
    options = PrivateOptions(pool.model.shape.name, (), 5, 1, "float32", 128, "127.0.0.1", 0, pool="its ticket")
    endpoint = pool.network.endpoint(identity_of(name).node_id)
    weights = open_directory(Path(pool._model_name))
    return PoolMachines(endpoint, weights, replace(options, **changes), ticket or pool.ticket)


@asynccontextmanager
async def door(pool: LivePool, asked: PoolMachines) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asked.parts.endpoint.close)
        stack.push_async_callback(asked.close)
        requests = private_requests(asked, frozenset())
        await stack.enter_async_context(background(requests.run()))
        server = await stack.enter_async_context(ApiServer(create_app(requests, pool.model.tokenizer), port=0))
        yield f"{server.url}/v1"


def test_a_machine_that_dies_in_mid_stream_costs_no_word_of_the_answer(pool: LivePool) -> None:
    asked = machines(pool, "client")
    opened = door(pool, asked)
    client = pool.client()
    words: dict[str, Any] = {"model": pool.model.shape.name, "max_tokens": 24, "temperature": 0, "prompt": TEXT}
    words["extra_body"] = {"ignore_eos": True}
    plain = client.completions.create(**words).choices[0].text
    client.base_url = pool.run(opened.__aenter__())
    try:
        placed = pool.run(asked.ready())
        assert placed.worst()[1].smallest_gap >= 5
        busy = {machine.id: machine for machine in pool.machines}
        parts: list[str] = []
        for chunk in client.completions.create(stream=True, **words):
            parts.append(chunk.choices[0].text)
            if len(parts) == 6:
                pool.kill(busy[next(iter(placed.roles))])
        assert "".join(parts) == plain
        again = pool.run(asked.ready())
        stayed = placed.roles.keys() & again.roles.keys()
        assert len(stayed) == len(placed.roles) - 1
        assert {node: placed.roles[node] for node in stayed} == {node: again.roles[node] for node in stayed}
        held = [job for job in pool.status()["private_sessions"] if job["ready"]]
        assert len(held) == 1
    finally:
        pool.run(opened.__aexit__(None, None, None))
    pool.until("the end of the session", lambda: not pool.service.status()["private_sessions"])


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"colluders": 3}, DoesNotFit, "7 owners are the fewest that can: add"),
        ({"model": "another"}, InvalidRequest, "This pool has no 'another'"),
        ({"dtype": "bfloat16"}, InvalidRequest, "computes in float32"),
        ({"min_gap": 10**6}, InvalidRequest, "sizes make no sense"),
        ({"ticket": Ticket("ab" * 32, (), b"x" * 32, 0.0)}, TicketInvalid, "not of this pool"),
    ],
)
def test_what_a_pool_cannot_do_in_private_is_refused(
    pool: LivePool, changes: dict[str, Any], error: type[MusterError], reason: str
) -> None:
    if "ticket" in changes:
        changes = {"ticket": replace(pool.ticket, secret=b"x" * 32)}
    asked = machines(pool, f"asks for {sorted(changes)}", **changes)

    async def refused() -> None:
        try:
            with pytest.raises(error, match=reason):
                await asked.ready()
        finally:
            await asked.close()
            await asked.parts.endpoint.close()

    pool.run(refused())
