"""The one line that lets a machine into a pool. Knows nothing of clocks (`now_s` comes in) or of how to dial.

    muster1<base32 of: msgpack array (head, direct, relay, secret, expires_s), then 4 bytes of its BLAKE3>

The checksum tells a line that lost a character from one that expired. The secret never travels again: a node shows
that it holds it by a `proof` over both node ids, which is worthless to any other node.
"""

from base64 import b32decode, b32encode
from dataclasses import dataclass, field
from hmac import compare_digest
from ipaddress import ip_address

import msgspec
from blake3 import blake3

from muster.errors import TicketInvalid
from muster.spec.pool import NodeId
from muster.wire.messages.base import Address

PREFIX = "muster1"
SECRET_BYTES = 32
MAX_TICKET_CHARACTERS = 4096
MAX_ADDRESSES = 16

_CHECKSUM_BYTES = 4
_ASK_AGAIN = "ask whoever runs the pool for a new one (`muster serve` prints it)"


@dataclass(frozen=True, slots=True)
class Ticket:
    """`expires_s` counts from the Unix epoch."""

    head: NodeId
    addresses: tuple[str, ...]
    """`ip:port`, as the head is reached from outside."""
    secret: bytes = field(repr=False)
    expires_s: float
    relay: str | None = None

    @property
    def address(self) -> Address:
        return Address(node=self.head, direct=self.addresses, relay=self.relay)

    def encode(self) -> str:
        body = msgspec.msgpack.encode(
            _Body(bytes.fromhex(self.head), self.addresses, self.relay, self.secret, float(self.expires_s))
        )
        return PREFIX + _base32(body + _checksum(body))


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    head: bytes
    direct: tuple[str, ...]
    relay: str | None
    secret: bytes
    expires_s: float


def parse(text: str, now_s: float) -> Ticket:
    """Raises `TicketInvalid` that says whether the line is foreign, mangled or expired. Line breaks are forgiven."""
    line = "".join(text[: 2 * MAX_TICKET_CHARACTERS].split()).lower()
    if not line.startswith(PREFIX):
        raise TicketInvalid(_foreign(line))
    if len(line) > MAX_TICKET_CHARACTERS:
        raise _mangled("it is far too long")
    ticket = _decode(line[len(PREFIX) :])
    if now_s >= ticket.expires_s:
        raise TicketInvalid(f"This ticket has expired; {_ASK_AGAIN}, and check this machine's clock if it is fresh.")
    return ticket


def proof(secret: bytes, node: NodeId, head: NodeId) -> bytes:
    """Shows that `node` holds the join secret of `head`'s pool, without showing the secret: keyed BLAKE3, 32 bytes."""
    key = blake3(secret, derive_key_context="muster 2025 join secret").digest()
    return blake3(bytes.fromhex(node) + bytes.fromhex(head), key=key).digest()


def proof_holds(claimed: bytes, secret: bytes, node: NodeId, head: NodeId) -> bool:
    """In constant time, so that a stranger cannot feel their way."""
    return compare_digest(claimed, proof(secret, node, head))


def _decode(encoded: str) -> Ticket:
    try:
        raw = b32decode(encoded.upper() + "=" * (-len(encoded) % 8))
    except ValueError:
        raise _mangled("it has a character too many, too few or wrong") from None
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    # The last character may hold bits that mean nothing; a line that differs there is not the line that was made.
    if checksum != _checksum(body) or _base32(raw) != encoded:
        raise _mangled("its checksum does not match")
    try:
        fields = msgspec.msgpack.decode(body, type=_Body)
    except msgspec.MsgspecError:
        raise TicketInvalid(f"This ticket was made by another version of Muster; {_ASK_AGAIN}.") from None
    _check_fields(fields)
    return Ticket(fields.head.hex(), fields.direct, fields.secret, fields.expires_s, fields.relay)


def _check_fields(fields: _Body) -> None:
    if len(fields.head) != 32 or len(fields.secret) != SECRET_BYTES or len(fields.direct) > MAX_ADDRESSES:
        raise TicketInvalid(f"This ticket names no valid pool; {_ASK_AGAIN}.")
    for address in fields.direct:
        if not _is_ip_and_port(address):
            raise TicketInvalid(f"This ticket holds {address!r}, which is no ip:port; {_ASK_AGAIN}.")


def _is_ip_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
        return 0 < int(port) < 65536
    except ValueError:
        return False


def _base32(raw: bytes) -> str:
    return b32encode(raw).decode().rstrip("=").lower()


def _checksum(body: bytes) -> bytes:
    return blake3(body).digest()[:_CHECKSUM_BYTES]


def _mangled(how: str) -> TicketInvalid:
    return TicketInvalid(f"This ticket is mangled: {how}; copy the whole line again, from `{PREFIX}` to its end.")


def _foreign(line: str) -> str:
    if not line:
        return f"The ticket is empty; {_ASK_AGAIN}."
    if line.startswith("muster") and line[6:7].isdigit():
        return "This ticket was made by another version of Muster; install the same version as the head's."
    return f"This is not a Muster ticket (those start with `{PREFIX}`); copy the whole line that `muster serve` prints."
