"""Machines for a private session, asked of a pool's head and held as long as the connection to it.

The head says who has which roles, and whose machines they are. The client holds that against what it asked for, itself:
of the head it believes nothing but the owners' names.
"""

import asyncio
from contextlib import suppress

from muster.client.private.session import Seated
from muster.errors import LinkDown, MusterError, ProtocolViolation, from_code
from muster.link.base import Channel, Connection, Endpoint
from muster.plan.private.placement import PrivatePlacement, check_history
from muster.spec.token_shards import TokenShards
from muster.wire.messages.membership import Refused
from muster.wire.messages.private import AskPrivate, PrivateSeats, PrivateWaits, SeatLost
from muster.wire.ticket import Ticket

DIAL_S = 10.0
LOAD_S = 600.0
"""For machines to load the model."""
MAX_ROLES = 4096


class PoolSeats:
    """Use `ask_pool`."""

    def __init__(
        self, connection: Connection, control: Channel, asked: AskPrivate, history: list[PrivatePlacement]
    ) -> None:
        """`history` are the placements that had this client's prompts before, and gets those that are found good."""
        self.placement: PrivatePlacement | None = None
        """As the head said last, once `get` has found it good."""
        self.round_trip_s = 0.0
        """Between the two of its machines that are farthest apart, as the head says."""
        self.names: dict[str, str] = {}
        """What the pool calls machines, by node."""
        self._connection, self._control, self._asked = connection, control, asked
        self._seats: PrivateSeats | None = None
        self._trouble: MusterError | None = None
        self._history = history
        self._news = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def get(self, after: int = 0) -> tuple[int, list[Seated]]:
        """Epoch and machines of a placement later than that of epoch `after`.

        Raises `DoesNotFit` where the pool has none, or the head offers one that shows too much.
        """
        seats = await self._later(after)
        self.placement = self._checked(seats)
        self.round_trip_s = max(0.0, seats.round_trip_s)
        self.names |= {each.address.node: each.name for each in seats.machines}
        return seats.epoch, [Seated(each.address, each.roles) for each in seats.machines]

    async def lost(self, epoch: int, node: str, reason: str) -> None:
        """Have the roles of `epoch` placed anew, without `node` if that is named."""
        self._trouble = None
        with suppress(LinkDown):
            await self._control.send(SeatLost(epoch=epoch, node=node, reason=reason[:500]))

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self._connection.close("the private session is over")

    async def _later(self, after: int) -> PrivateSeats:
        try:
            async with asyncio.timeout(LOAD_S):
                while True:
                    self._news.clear()
                    if self._seats is not None and self._seats.epoch > after:
                        return self._seats
                    if self._trouble is not None:
                        raise self._trouble
                    await self._news.wait()
        except TimeoutError:
            raise LinkDown(f"The pool placed no private session within {LOAD_S:.0f} s; look at its head.") from None

    async def _listen(self) -> None:
        try:
            while True:
                message, _ = await self._control.receive()
                if isinstance(message, PrivateSeats):
                    self._seats, self._trouble = message, None
                elif isinstance(message, PrivateWaits | Refused):
                    self._trouble = from_code(message.code, message.reason)
                else:
                    raise ProtocolViolation(
                        f"The head sent a {type(message).__name__} to a client; update Muster on it."
                    )
                self._news.set()
        except MusterError as error:
            self._trouble = self._trouble or error
            self._seats = None
            self._news.set()

    def _checked(self, seats: PrivateSeats) -> PrivatePlacement:
        """Raises `ProtocolViolation` on what is no placement, `DoesNotFit` on one that shows too much."""
        sizes = seats.cluster, seats.comp_nodes, seats.shards
        given = sorted(role for each in seats.machines for role in each.roles)
        if not all(1 <= size <= MAX_ROLES for size in sizes) or seats.comp_nodes + seats.shards**2 > MAX_ROLES:
            raise ProtocolViolation("The head offered a rule of sharding with senseless sizes; update Muster on it.")
        rule = TokenShards(*sizes)
        nodes = {each.address.node for each in seats.machines}
        if given != list(rule.roles) or len(nodes) != len(seats.machines):
            raise ProtocolViolation("The head offered roles that are not shared out one by one; update Muster on it.")
        placement = PrivatePlacement(
            rule,
            {each.address.node: each.roles for each in seats.machines},
            {each.address.node: each.owner or each.address.node for each in seats.machines},
            "as the pool's head dealt",
            self._asked.colluders,
        )
        check_history([*self._history, placement], self._asked.min_gap)
        self._history.append(placement)
        return placement


async def ask_pool(endpoint: Endpoint, ticket: Ticket, asked: AskPrivate, history: list[PrivatePlacement]) -> PoolSeats:
    """Raises `LinkDown` where the head does not answer."""
    connection = await endpoint.dial(ticket.address, DIAL_S)
    control = await connection.open("control")
    await control.send(asked)
    return PoolSeats(connection, control, asked, history)
