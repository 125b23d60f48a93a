"""Private sessions over links: the same logits, the bytes of the formula, and refusals that name who said what."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import torch

from muster.client.private.session import MachineLost, PrivateSession, Seated, open_private, opening_orders
from muster.errors import InvalidRequest, MusterError, NotAllowed
from muster.link.base import Endpoint
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.memory import MemoryNetwork
from muster.model.conformance import MemoryWeights
from muster.model.ends import build_ends
from muster.node.private.host import PrivateHost
from muster.node.runners.private.model import PrivateModel
from muster.private.client import NewIds, PrivateClient
from muster.private.network import private_network
from muster.private.traffic import step_bytes
from muster.spec.token_shards import TokenShards
from muster.wire.messages.private import HiddenRows
from tests.model.families import CPU, dense_model

pytestmark = pytest.mark.anyio
RULE = TokenShards(cluster=2, comp_nodes=2, shards=2)
IDS = (3, 9, 27, 14, 42, 5, 6, 7, 33)
SECRET = b"s" * 32
Bind = Callable[[], Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def weights() -> MemoryWeights:
    model = dense_model("llama")
    return MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())


def expected(ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = dense_model("llama")(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def memory() -> Bind:
    network = MemoryNetwork()
    count = 0

    async def bind() -> Endpoint:
        nonlocal count
        count += 1
        return network.endpoint(f"{count:02x}" * 32)

    return bind


def sockets() -> Bind:
    async def bind() -> Endpoint:
        return await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1")

    return bind


class Table:
    """Machines with one role each, and a client."""

    def __init__(self, weights: MemoryWeights, mine: Endpoint, machines: list[Endpoint]) -> None:
        self.model = PrivateModel(weights, private_network(weights.config_json))
        self.mine, self.machines = mine, machines
        self.hosts = [asyncio.create_task(PrivateHost(each, self.model, SECRET).run()) for each in machines]
        self.seats = [Seated(each.address, (role,), SECRET) for role, each in enumerate(machines)]
        ends = build_ends(weights, torch.float32, CPU)
        self.client = PrivateClient(ends, RULE, self.model.network.windows, max_tokens=32, epoch=7)

    async def open(self, seats: list[Seated] | None = None, config: bytes | None = None) -> PrivateSession:
        return await open_private(self.mine, self.client, seats or self.seats, config or self.model.digest, "float32")

    async def close(self) -> None:
        for task in self.hosts:
            task.cancel()
        await asyncio.gather(*self.hosts, return_exceptions=True)
        for endpoint in (self.mine, *self.machines):
            await endpoint.close()


@asynccontextmanager
async def table(weights: MemoryWeights, bind: Bind) -> AsyncIterator[Table]:
    made = Table(weights, await bind(), [await bind() for _ in RULE.roles])
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("bind", [memory, sockets])
async def test_logits_and_bytes_over_links_are_those_of_the_plain_model_and_the_formula(
    weights: MemoryWeights, bind: Callable[[], Bind]
) -> None:
    async with table(weights, bind()) as made:
        session = await made.open()
        first = await session.step([NewIds(0, 0, IDS[:8])])
        second = await session.step([NewIds(0, 8, IDS[8:])])
        await session.close()
        found = torch.cat([first.logits(), second.logits()])
        assert float((found - expected(IDS)[-2:]).abs().max()) <= 1e-5
        payloads = session.sent.payload_bytes + sum(each.payload_bytes for each in session.closed)
        sizes = [step_bytes(RULE, made.model.network.layers, tokens, 4, 32) for tokens in (8, 1)]
        assert payloads == sum(sizes)
        assert len(session.closed) == len(RULE.roles)


async def test_a_machine_that_is_lost_is_named_and_another_set_goes_on_with_the_same_tokens(
    weights: MemoryWeights,
) -> None:
    bind = memory()
    async with table(weights, bind) as made:
        session = await made.open()
        await session.step([NewIds(0, 0, IDS[:8])])
        lost = made.machines[3]
        lost.crash()  # type: ignore[attr-defined]
        with pytest.raises(MachineLost, match="of the private session failed") as caught:
            await session.step([NewIds(0, 8, IDS[8:])])
        assert caught.value.node == lost.node_id
        await session.close()
        spare = await bind()
        made.machines.append(spare)
        made.hosts.append(asyncio.create_task(PrivateHost(spare, made.model, SECRET).run()))
        seats = [each for each in made.seats if each.address.node != lost.node_id]
        seats.append(Seated(spare.address, (3,), SECRET))
        made.client.epoch = 8
        session = await made.open(seats)
        again = await session.step([NewIds(0, 0, IDS)])
        assert float((again.logits() - expected(IDS)[-1:]).abs().max()) <= 1e-5
        await session.close()


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"proof": b"x" * 32}, NotAllowed, "ticket is not this machine's"),
        ({"config": b"x" * 32}, InvalidRequest, "runs another model"),
        ({"max_tokens": 10**6}, InvalidRequest, "64 tokens here"),
        ({"comp_nodes": 10**9}, InvalidRequest, "at most 4096 roles"),
        ({"cluster": 0}, InvalidRequest, "make no sense"),
        ({"machines": ()}, InvalidRequest, "shared out one by one"),
        ({"dtype": "int4"}, MusterError, "int4"),
    ],
)
async def test_a_session_that_makes_no_sense_is_not_opened(
    weights: MemoryWeights, change: dict[str, Any], error: type[MusterError], reason: str
) -> None:
    async with table(weights, memory()) as made:
        session = PrivateSession(made.client)
        order, *_ = opening_orders(made.mine.node_id, made.client, made.seats, made.model.digest, "float32")
        with pytest.raises(error, match=reason):
            await session.seat(made.mine, made.seats[0], msgspec.structs.replace(order, **change))


async def test_whoever_speaks_for_anothers_role_is_refused(weights: MemoryWeights) -> None:
    async with table(weights, memory()) as made:
        session = await made.open()
        # CompNode 1's machine claims to be the client.
        connection = await made.machines[1].dial(made.machines[0].address)
        channel = await connection.open("data")
        _, letters = made.client.begin([NewIds(0, 0, IDS)])
        forged = next(letter for letter in letters if isinstance(letter[0], HiddenRows) and letter[0].receiver == 0)
        await channel.send(*forged)  # type: ignore[arg-type]
        with pytest.raises(MusterError, match="spoke for the client, which is another's role"):
            await session.step([NewIds(0, 0, IDS)])
        await session.close()
