"""Requests through private sessions on placed machines: the plain model's tokens, whoever is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import torch

from muster.client.private.generate import PrivateRequests
from muster.errors import ContextTooLong, PoolUnavailable, Unsupported
from muster.head.private import PrivateMachines, PrivateOptions
from muster.link.memory import MemoryEndpoint, MemoryNetwork
from muster.model.conformance import MemoryWeights
from muster.node.private.host import PrivateHost
from muster.node.runners.private.model import PrivateModel
from muster.private.comp_node import CompNode
from muster.private.network import private_network
from muster.private.sentinels import Sentinel, prepare
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.wire.ticket import Ticket
from tests.model.families import dense_model

pytestmark = pytest.mark.anyio
SECRET = b"s" * 32


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def weights() -> MemoryWeights:
    model = dense_model("llama")
    return MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())


def continued(prompt: tuple[int, ...], count: int) -> list[int]:
    model, ids = dense_model("llama"), list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@asynccontextmanager
async def served(
    weights: MemoryWeights, count: int, sentinels: Sequence[Sentinel] = ()
) -> AsyncIterator[tuple[PrivateRequests, list[MemoryEndpoint]]]:
    network = MemoryNetwork()
    endpoints = [network.endpoint(f"{number:02x}" * 32) for number in range(1, count + 1)]
    model = PrivateModel(weights, private_network(weights.config_json))
    tasks = [asyncio.create_task(PrivateHost(each, model, SECRET).run()) for each in endpoints]
    tickets = [Ticket(each.node_id, each.address.direct, SECRET, 0.0) for each in endpoints]
    options = PrivateOptions("llama", (("", ""),) * count, 3, 1, "float32", None, "", 0)
    machines = PrivateMachines(network.endpoint("ff" * 32), weights, options, tickets)
    parts = machines.parts
    requests = PrivateRequests(
        machines.open, "llama", parts.max_context, parts.ends.vocab_size, frozenset(), sentinels=sentinels
    )
    tasks.append(asyncio.create_task(requests.run()))
    try:
        yield requests, endpoints
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def tokens(requests: PrivateRequests, name: str, prompt: tuple[int, ...], count: int) -> list[int]:
    request = Request(name, prompt, Sampling(max_tokens=count, temperature=0.0))
    return [each.token async for progress in requests.generate(request) for each in progress.tokens]


async def test_requests_share_steps_and_get_the_tokens_of_the_plain_model(weights: MemoryWeights) -> None:
    async with served(weights, 3) as (requests, _):
        first, second = (3, 9, 27, 14, 42, 5), (7, 7, 8)
        found = await asyncio.gather(tokens(requests, "a", first, 8), tokens(requests, "b", second, 12))
        assert found == [continued(first, 8), continued(second, 12)]
        assert requests.steps <= 14
        again = Request("c", first, Sampling(max_tokens=3, temperature=0.0), emitted=tuple(continued(first, 2)))
        more = [each async for each in requests.generate(again)]
        assert [(each.index, each.tokens[0].token) for each in more] == [(2, continued(first, 3)[2])]
        assert more[-1].finish == "length"


async def test_a_machine_lost_in_the_middle_of_a_stream_costs_no_token(weights: MemoryWeights) -> None:
    async with served(weights, 4) as (requests, endpoints):
        prompt, found = (3, 9, 27, 14, 42, 5), []
        request = Request("a", prompt, Sampling(max_tokens=10, temperature=0.0))
        async for progress in requests.generate(request):
            found += [each.token for each in progress.tokens]
            if len(found) == 4:
                session = requests._session
                assert session is not None
                busy = next(e for e in endpoints if e.node_id == session.machines[0])
                busy.crash()
        assert found == continued(prompt, 10)
        assert requests.status()["lost"] == 1


async def test_a_machine_that_gives_back_wrong_rows_is_named_and_replaced_before_a_token_is_wrong(
    weights: MemoryWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    liars: list[CompNode] = []

    def made(*given: Any) -> CompNode:
        node = CompNode(*given)
        if node.role == 1 and not liars:
            liars.append(node)
            honest = node._stage.run
            node._stage.run = lambda *rows: 1.01 * honest(*rows)  # type: ignore[method-assign]
        return node

    monkeypatch.setattr("muster.node.runners.private.session.CompNode", made)
    known = prepare(weights, torch.float32, 32, 2, seed=1)
    async with served(weights, 4, known) as (requests, _):
        with structlog.testing.capture_logs() as logs:
            found = await asyncio.gather(*(tokens(requests, name, (3, 9, 27, 14, 42, 5), 8) for name in "ab"))
        assert found == [continued((3, 9, 27, 14, 42, 5), 8)] * 2
        (reason,) = [entry["reason"] for entry in logs if entry["event"] == "private.machine_lost"]
        assert reason.endswith("failed: it computed 6 states of a sentinel wrongly")  # and nobody else may have
        assert requests.status()["lost"] == 1


async def test_where_nobody_may_take_the_roles_of_a_lost_machine_every_request_hears_so(weights: MemoryWeights) -> None:
    async with served(weights, 3) as (requests, endpoints):
        assert len(await tokens(requests, "a", (3, 4), 1)) == 1
        endpoints[0].crash()
        with pytest.raises(PoolUnavailable, match="would read more of the same prompts"):
            await tokens(requests, "b", (3, 4), 1)


async def test_what_a_private_session_cannot_do_is_refused(weights: MemoryWeights) -> None:
    async with served(weights, 3) as (requests, _):
        with pytest.raises(Unsupported, match="keeps answers to no form"):
            await anext(requests.generate(Request("a", (3,), Sampling(grammar="start: /a/"))))
        with pytest.raises(ContextTooLong, match="65 tokens together, and this private session takes 64"):
            await tokens(requests, "b", (3, 4, 5), 62)
