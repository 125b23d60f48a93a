"""Who may join: tickets, bans, and those who were here before. Pure."""

from muster.broker.events import NodeJoined, Remembered
from muster.broker.members.join import MAX_NAME, check_hello, check_not_banned, check_proof
from muster.broker.members.membership import Member, Membership
from muster.broker.members.names import Names
from muster.errors import LimitReached
from muster.spec.pool import NodeId


class Admission:
    def __init__(self, members: Membership, max_members: int, remembered: Remembered) -> None:
        self._members, self._max_members = members, max_members
        self.known = set(remembered.known)
        """They may come back with a ticket that has expired."""
        self.banned = set(remembered.banned)
        self.names = Names(remembered.names, MAX_NAME)
        self._secrets = list(remembered.secrets)

    def ticket_issued(self, secret: bytes, expires_s: float) -> None:
        self._secrets.append((secret, expires_s))

    def ban(self, node: NodeId) -> None:
        self.banned.add(node)

    def unban(self, node: NodeId) -> None:
        self.banned.discard(node)

    def forget(self, node: NodeId) -> None:
        """It needs a ticket that is still good to come back."""
        self.known.discard(node)
        self.names.forget(node)

    def check(self, event: NodeJoined) -> None:
        """Raises `MusterError` unless the node may come in."""
        node, here = event.node, self._members.members
        check_not_banned(node, self.banned)
        check_hello(node, event.hello, self._members.head, self._secrets, node in self.known, event.wall_s)
        if len(here) >= self._max_members and node not in here:
            raise LimitReached("This pool is full; ask whoever runs it, or try again later.")

    def check_proof(self, node: NodeId, proof: bytes, protocol: int, wall_s: float) -> None:
        """Of one that joins nothing. Raises `MusterError` unless it has a ticket that is good now."""
        check_not_banned(node, self.banned)
        check_proof(node, proof, protocol, self._members.head, self._secrets, False, wall_s)

    def admit(self, event: NodeJoined, now_s: float) -> Member:
        hello = event.hello
        name = self.names.give(event.node, hello.name)
        member = Member(
            event.node, event.connection, name, hello.region, hello.address, now_s, hello.island, hello.owner
        )
        self._members.add(member)
        self.known.add(event.node)
        return member
