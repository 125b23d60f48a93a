"""`muster private serve`: a door for this machine alone, whose process keeps embedding and head. Decides nothing.

The machines that compute are those of the tickets, or those that a pool's head gives. Who has which roles stays: a
machine that got other tokens of the same text later, after a loss or a restart, would in the end read all of it. So
only a machine whose owner reads nothing yet takes the roles of one that is lost.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from muster.api.app import create_app
from muster.api.server import ApiServer
from muster.client.private.generate import PrivateRequests
from muster.client.private.pool import PoolSeats, ask_pool
from muster.client.private.session import PrivateSession, Seated, open_private
from muster.errors import InvalidRequest, LinkDown
from muster.head.run import background
from muster.link.base import Endpoint, short_id
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.model.conformance import check_conformance
from muster.model.shape import torch_dtype
from muster.model.source import resolve
from muster.model.weights import Weights, open_directory
from muster.node.announce import Announce
from muster.node.process import leave_threads_behind, on_interrupt
from muster.node.runners.private.model import config_digest
from muster.plan.private.in_words import placement_in_words
from muster.plan.private.placement import PrivateMember, PrivatePlacement, place, with_spare
from muster.private.client import PrivateClient, private_ends
from muster.private.network import private_network
from muster.private.sentinels import Sentinel, prepare
from muster.private.traffic import rounds, step_bytes
from muster.spec.model_name import model_name
from muster.spec.pool import NodeId
from muster.spec.token_shards import TokenShards
from muster.text.tokenizer import load_tokenizer
from muster.wire.messages.base import PROTOCOL
from muster.wire.messages.private import AskPrivate
from muster.wire.ticket import Ticket, parse, proof

MAX_CONTEXT = 4096
"""Of a request, unless more is asked for: machines of a pool set memory aside for all of it."""
SENTINEL_TOKENS = 128
AT_ONCE = 4
"""Requests of the longest kind that the machines of a pool have room for."""


@dataclass(frozen=True, slots=True)
class PrivateOptions:
    model: str
    machines: tuple[tuple[str, str], ...]
    """Ticket and owner of each; an empty owner is one of its own. Empty: those of a pool."""
    min_gap: int
    colluders: int
    dtype: str
    max_context: int | None
    host: str
    port: int
    pool: str = ""
    """The ticket of a pool, whose head names the machines."""
    spares: int = 1
    """Owners that a pool keeps back for machines that are lost."""
    sentinels: int = 0
    """Sequences whose states are computed here first, against machines that compute wrongly."""


class PrivateParts:
    """What this process has of the model, and how it makes sessions of it."""

    def __init__(self, endpoint: Endpoint, weights: Weights, options: PrivateOptions) -> None:
        self.network = private_network(weights.config_json)
        self.ends = private_ends(weights, options.dtype)
        most = options.max_context or (MAX_CONTEXT if options.pool else self.network.max_context)
        self.max_context = min(most, self.network.max_context)
        self.endpoint, self.options = endpoint, options
        self._digest = config_digest(weights.config_json)

    async def session(self, rule: TokenShards, epoch: int, seats: Sequence[Seated]) -> PrivateSession:
        client = PrivateClient(self.ends, rule, self.network.windows, self.max_context, epoch=epoch)
        return await open_private(self.endpoint, client, seats, self._digest, self.options.dtype)


class PrivateMachines:
    """Opens sessions on whatever of the named machines are left."""

    def __init__(
        self, endpoint: Endpoint, weights: Weights, options: PrivateOptions, tickets: Sequence[Ticket]
    ) -> None:
        self.parts = PrivateParts(endpoint, weights, options)
        self._tickets = {ticket.head: ticket for ticket in tickets}
        self._owners = {
            ticket.head: owner or ticket.head for ticket, (_, owner) in zip(tickets, options.machines, strict=True)
        }
        # The same machines get the same roles after a restart, whatever the order of their tickets.
        members = [PrivateMember(node, self._owners[node]) for node in sorted(self._tickets)]
        self.placement = place(members, options.min_gap, options.colluders)

    def name(self, node: NodeId) -> str:
        return short_id(node)

    round_trip_s: float | None = None
    """Nobody has measured links between machines that are named by hand."""

    async def ready(self) -> PrivatePlacement:
        return self.placement

    async def open(self, lost: frozenset[NodeId]) -> PrivateSession:
        """Raises `DoesNotFit` where nobody may take the roles of a machine that is lost."""
        for node in lost & self.placement.roles.keys():
            spares = sorted(self._tickets.keys() - lost)
            self.placement = with_spare(
                self.placement, node, [PrivateMember(each, self._owners[each]) for each in spares]
            )
        seats = [
            Seated(self._tickets[node].address, roles, self._tickets[node].secret)
            for node, roles in self.placement.roles.items()
        ]
        return await self.parts.session(self.placement.rule, secrets.randbits(62), seats)

    async def close(self) -> None:
        """Nothing is held between sessions."""


class PoolMachines:
    """Opens sessions on the machines that a pool's head gives."""

    def __init__(self, endpoint: Endpoint, weights: Weights, options: PrivateOptions, ticket: Ticket) -> None:
        self.parts = PrivateParts(endpoint, weights, options)
        self._ticket, self._model = ticket, model_name(options.model)
        self._history: list[PrivatePlacement] = []
        self._pool: PoolSeats | None = None
        self._epoch = 0
        """Of the last session."""
        self._lost: frozenset[NodeId] = frozenset()
        """That the head has been told of."""

    @property
    def request_tokens(self) -> int:
        """Of all requests at once."""
        return AT_ONCE * self.parts.max_context

    @property
    def cache_tokens(self) -> int:
        """With a sentinel, and one that is about to be forgotten."""
        return self.request_tokens + 2 * SENTINEL_TOKENS

    def name(self, node: NodeId) -> str:
        named = "" if self._pool is None else self._pool.names.get(node, "")
        return named or short_id(node)

    @property
    def round_trip_s(self) -> float | None:
        """Between the two machines that are farthest apart; None where nobody said."""
        return None if self._pool is None else self._pool.round_trip_s

    async def ready(self) -> PrivatePlacement:
        """Waits until machines have loaded the model."""
        _, placement, _ = await self._seats()
        return placement

    async def open(self, lost: frozenset[NodeId]) -> PrivateSession:
        """On other machines than those that are `lost`, or than in the session before where one failed."""
        epoch, placement, seats = await self._seats()
        if epoch == self._epoch and self._pool is not None:
            news = sorted(lost - self._lost)
            self._lost |= lost
            await self._pool.lost(epoch, news[0] if news else "", "the client lost it")
            epoch, placement, seats = await self._seats(after=epoch)
        self._epoch = epoch
        return await self.parts.session(placement.rule, epoch, seats)

    async def _seats(self, after: int = 0) -> tuple[int, PrivatePlacement, list[Seated]]:
        """Asks again where the head was lost."""
        if self._pool is None:
            self._pool = await ask_pool(self.parts.endpoint, self._ticket, self._asked(), self._history)
        try:
            epoch, seats = await self._pool.get(after)
        except LinkDown:
            pool, self._pool = self._pool, None
            await pool.close()
            raise
        assert self._pool.placement is not None
        return epoch, self._pool.placement, seats

    def _asked(self) -> AskPrivate:
        options = self.parts.options
        return AskPrivate(
            protocol=PROTOCOL, proof=proof(self._ticket.secret, self.parts.endpoint.node_id, self._ticket.head),
            model=self._model, dtype=options.dtype, min_gap=options.min_gap, colluders=options.colluders,
            spares=options.spares, max_tokens=self.parts.max_context, cache_tokens=self.cache_tokens,
        )  # fmt: skip

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()


Machines = PrivateMachines | PoolMachines


async def run_private(options: PrivateOptions, announce: Announce) -> None:
    """Until it is interrupted."""
    leave_threads_behind()
    task = asyncio.create_task(_serve(options, announce))
    on_interrupt(task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise


async def _serve(options: PrivateOptions, announce: Announce) -> None:
    tickets = [parse(line, time.time()) for line, _ in options.machines]
    if len({ticket.head for ticket in tickets}) != len(tickets):
        raise InvalidRequest("Two tickets are of the same machine; name each machine once.", "machines")
    pool = parse(options.pool, time.time()) if options.pool else None
    path = resolve(options.model)
    async with AsyncExitStack() as stack:
        weights = open_directory(path)
        await asyncio.to_thread(check_conformance, weights.config_json)
        endpoint = await IrohEndpoint.bind(
            Identity.generate()
        )  # a new one for each start: machines cannot tell who asks
        stack.push_async_callback(endpoint.close)
        if pool is None:
            machines: Machines = await asyncio.to_thread(PrivateMachines, endpoint, weights, options, tickets)
        else:
            machines = await asyncio.to_thread(PoolMachines, endpoint, weights, options, pool)
            announce("asking", "Asking the pool for machines; they load the model.")
        stack.push_async_callback(machines.close)
        _announce_placement(machines, await machines.ready(), announce)
        tokenizer = await asyncio.to_thread(load_tokenizer, path)
        stack.callback(tokenizer.close)
        known = await asyncio.to_thread(known_sentinels, weights, options)
        name = model_name(options.model)
        requests = private_requests(machines, frozenset(tokenizer.end_of_text_ids), known)
        task = await stack.enter_async_context(background(requests.run()))
        server = await stack.enter_async_context(ApiServer(create_app(requests, tokenizer), options.host, options.port))
        announce("serving", f"{name} is at {server.url}/v1, for programs of this machine.", url=server.url, model=name)
        await task


def known_sentinels(weights: Weights, options: PrivateOptions) -> list[Sentinel]:
    """From a seed that nobody else knows."""
    if not options.sentinels:
        return []
    return prepare(weights, torch_dtype(options.dtype), SENTINEL_TOKENS, options.sentinels, secrets.randbits(62))


def private_requests(
    machines: Machines, end_ids: frozenset[int], sentinels: Sequence[Sentinel] = ()
) -> PrivateRequests:
    parts = machines.parts
    cache = machines.request_tokens if isinstance(machines, PoolMachines) else 0
    name, most, vocabulary = model_name(parts.options.model), parts.max_context, parts.ends.vocab_size
    return PrivateRequests(machines.open, name, most, vocabulary, end_ids, cache, sentinels)


def _announce_placement(machines: Machines, placement: PrivatePlacement, announce: Announce) -> None:
    """Before anything is sent: what is protected, and what it costs."""
    parts = machines.parts
    lines = placement_in_words(placement, parts.ends.vocab_size, machines.name)
    itemsize = {"float32": 4}.get(parts.options.dtype, 2)
    nbytes = step_bytes(placement.rule, parts.network.layers, 1, itemsize, parts.ends.hidden_size)
    trips = rounds(parts.network.layers)
    lines.append(f"Each token moves {nbytes / 1e6:.3g} MB and takes {trips} round trips one after another.")
    forecast_s = None if machines.round_trip_s is None else trips * machines.round_trip_s
    if forecast_s is not None:
        lines.append(
            f"Links alone take {forecast_s:.3g} s of each token, and of the first one; computing comes on top."
        )
    facts = {"words": lines, "token_bytes": nbytes, "round_trips": trips, "links_s": forecast_s}
    announce("placed", "\n".join(lines), **facts)


def read_machines(path: Path) -> tuple[tuple[str, str], ...]:
    """A ticket a line, and the owner's name behind it if machines have the same one; # begins a remark."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{path} cannot be read ({error}); name a file with a ticket a line.", "machines"
        ) from None
    lines = [line.split("#")[0].split(maxsplit=1) for line in text.splitlines()]
    found = tuple((words[0], words[1].strip() if len(words) > 1 else "") for words in lines if words)
    if not found:
        raise InvalidRequest(f"{path} holds no ticket; `muster private node` prints one on each machine.", "machines")
    return found
