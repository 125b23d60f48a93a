"""Where other members of an island reach this machine: the address from which it would send to them."""

import socket
from ipaddress import ip_address

from muster.wire.messages.base import Address

HERE = "127.0.0.1"


def host_towards(address: Address) -> str:
    """Nothing is sent: the system only looks up the way. This machine alone, where nothing else is known."""
    for host, port in sorted(
        filter(None, map(_parsed, address.direct)), key=lambda one: not ip_address(one[0]).is_private
    ):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((host, port))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return HERE


def _parsed(direct: str) -> tuple[str, int] | None:
    host, _, port = direct.rpartition(":")
    host = host.strip("[]")
    try:
        ip_address(host)
        return host, int(port)
    except ValueError:
        return None
