"""`muster private serve`: a door for this machine alone, whose process keeps embedding and head. Decides nothing.

The machines that compute are those of the tickets. Who has which roles stays: a machine that got other tokens of the
same text later, after a loss or a restart, would in the end read all of it. So only a machine whose owner reads nothing
yet takes the roles of one that is lost.
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
from muster.client.private.session import PrivateSession, Seated, open_private
from muster.errors import InvalidRequest
from muster.head.run import background
from muster.link.base import Endpoint, short_id
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.model.conformance import check_conformance
from muster.model.source import resolve
from muster.model.weights import Weights, open_directory
from muster.node.announce import Announce
from muster.node.private.model import config_digest
from muster.node.process import leave_threads_behind, on_interrupt
from muster.plan.private.in_words import placement_in_words
from muster.plan.private.placement import PrivateMember, place, with_spare
from muster.private.client import PrivateClient, private_ends
from muster.private.network import private_network
from muster.private.traffic import rounds, step_bytes
from muster.spec.model_name import model_name
from muster.spec.pool import NodeId
from muster.text.tokenizer import load_tokenizer
from muster.wire.ticket import Ticket, parse


@dataclass(frozen=True, slots=True)
class PrivateOptions:
    model: str
    machines: tuple[tuple[str, str], ...]
    """Ticket and owner of each; an empty owner is one of its own."""
    min_gap: int
    colluders: int
    dtype: str
    max_context: int | None
    host: str
    port: int


class PrivateMachines:
    """Opens sessions on whatever machines are left."""

    def __init__(
        self, endpoint: Endpoint, weights: Weights, options: PrivateOptions, tickets: Sequence[Ticket]
    ) -> None:
        network = private_network(weights.config_json)
        self.max_context = min(options.max_context or network.max_context, network.max_context)
        self.ends = private_ends(weights, options.dtype)
        self.network = network
        self._endpoint, self._options = endpoint, options
        self._digest = config_digest(weights.config_json)
        self._tickets = {ticket.head: ticket for ticket in tickets}
        self._owners = {
            ticket.head: owner or ticket.head for ticket, (_, owner) in zip(tickets, options.machines, strict=True)
        }

        # The same machines get the same roles after a restart, whatever the order of their tickets.
        members = [PrivateMember(node, self._owners[node]) for node in sorted(self._tickets)]
        self.placement = place(members, options.min_gap, options.colluders)

    async def open(self, lost: frozenset[NodeId]) -> PrivateSession:
        """Raises `DoesNotFit` where nobody may take the roles of a machine that is lost."""
        for node in lost & self.placement.roles.keys():
            spares = sorted(self._tickets.keys() - lost)
            self.placement = with_spare(
                self.placement, node, [PrivateMember(each, self._owners[each]) for each in spares]
            )
        placement = self.placement
        client = PrivateClient(
            self.ends, placement.rule, self.network.windows, self.max_context, epoch=secrets.randbits(62)
        )
        seats = [Seated(self._tickets[node], roles) for node, roles in placement.roles.items()]
        return await open_private(self._endpoint, client, seats, self._digest, self._options.dtype)


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
    path = resolve(options.model)
    async with AsyncExitStack() as stack:
        weights = open_directory(path)
        await asyncio.to_thread(check_conformance, weights.config_json)
        endpoint = await IrohEndpoint.bind(
            Identity.generate()
        )  # a new one for each start: machines cannot tell who asks
        stack.push_async_callback(endpoint.close)
        machines = await asyncio.to_thread(PrivateMachines, endpoint, weights, options, tickets)
        _announce_placement(machines, options, announce)
        tokenizer = await asyncio.to_thread(load_tokenizer, path)
        stack.callback(tokenizer.close)
        name, ends = model_name(options.model), frozenset(tokenizer.end_of_text_ids)
        requests = PrivateRequests(machines.open, name, machines.max_context, machines.ends.vocab_size, ends)
        task = await stack.enter_async_context(background(requests.run()))
        server = await stack.enter_async_context(ApiServer(create_app(requests, tokenizer), options.host, options.port))
        announce("serving", f"{name} is at {server.url}/v1, for programs of this machine.", url=server.url, model=name)
        await task


def _announce_placement(machines: PrivateMachines, options: PrivateOptions, announce: Announce) -> None:
    """Before anything is opened: what is protected, and what it costs."""
    placement = machines.placement
    lines = placement_in_words(placement, machines.ends.vocab_size, short_id)
    itemsize = {"float32": 4}.get(options.dtype, 2)
    nbytes = step_bytes(placement.rule, machines.network.layers, 1, itemsize, machines.ends.hidden_size)
    trips = rounds(machines.network.layers)
    lines.append(f"Each token moves {nbytes / 1e6:.3g} MB and takes {trips} round trips one after another.")
    announce("placed", "\n".join(lines), words=lines, token_bytes=nbytes, round_trips=trips)


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
