"""A listening TCP socket, or why there is none. Knows no HTTP; imports nothing slow, so that it can be tried early."""

import errno
import socket

from muster.errors import MachineTrouble

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises `MachineTrouble` with the remedy."""
    if not 0 <= port < 65536:  # the resolver would wrap it around
        raise MachineTrouble(f"There is no port {port}; choose another from 1 to 65535 with --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise MachineTrouble(f"Cannot listen on {host} port {port} ({error}); choose another address.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise MachineTrouble(_explain(error, host, port)) from error
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken; choose another with --port, or stop the program that holds it."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"This user may not listen on port {port}; choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"This machine has no address {host}; listen on 127.0.0.1, or on one of its own addresses."
    return f"Cannot listen on {host} port {port} ({error.strerror}); choose another with --port."
