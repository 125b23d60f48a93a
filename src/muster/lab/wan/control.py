"""How commands reach the keeper of a lab: one request and one answer by a socket in the lab's folder.

Only root reaches that folder. Knows the words, not what they do.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from muster.errors import InvalidRequest, PoolUnavailable
from muster.lab.wan.router import Router

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 2 * 1024 * 1024
ANSWER_S = 10.0
_BUFFER_BYTES = 2 * MAX_ANSWER_BYTES
_SO_SNDBUFFORCE = 32


class CutHosts(msgspec.Struct, frozen=True, tag="cut"):
    """Nothing passes between two hosts from now on."""

    one: str
    other: str


class HealHosts(msgspec.Struct, frozen=True, tag="heal"):
    """It does again, at full bandwidth."""

    one: str
    other: str


class SlowHosts(msgspec.Struct, frozen=True, tag="slow_link"):
    """Between two hosts `factor` of the bandwidth passes."""

    one: str
    other: str
    factor: float


class Silence(msgspec.Struct, frozen=True, tag="silence"):
    """Nothing passes from or to a host, as if it were switched off."""

    host: str


class Hear(msgspec.Struct, frozen=True, tag="hear"):
    """It does again."""

    host: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Say what has passed."""


Request = CutHosts | HealHosts | SlowHosts | Silence | Hear | Report


class DirectionReport(msgspec.Struct, frozen=True):
    source: str
    target: str
    passed: int
    passed_bytes: int
    lost: int
    dropped: int
    is_cut: bool


class KeeperAnswer(msgspec.Struct, frozen=True):
    error: str = ""
    packets: int = 0
    strange: int = 0
    crowded_out: int = 0
    refused: int = 0
    latest_s: float = 0.0
    processor_s: float = 0.0
    """Of the router, since the lab is up."""
    directions: tuple[DirectionReport, ...] = ()
    """Those that anything was sent on."""


def ask(folder: Path, request: Request) -> KeeperAnswer:
    """Raises `PoolUnavailable` if the keeper does not answer, `InvalidRequest` if it refuses."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.settimeout(ANSWER_S)
            channel.connect(str(folder / "control"))
            channel.send(msgspec.json.encode(request))
            answer = msgspec.json.decode(channel.recv(MAX_ANSWER_BYTES), type=KeeperAnswer)
    except (OSError, msgspec.DecodeError):
        raise PoolUnavailable("The lab does not answer; end it with `muster lab down` and start it again.") from None
    if answer.error:
        raise InvalidRequest(answer.error)
    return answer


class ControlSocket:
    """The keeper's end. Never waits: who asks has sent already, or is not answered."""

    def __init__(self, folder: Path, router: Router, handle: Callable[[Request], KeeperAnswer]) -> None:
        self._router, self._handle = router, handle
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(str(folder / "control"))
        self._listener.listen()
        router.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        channel, _ = self._listener.accept()
        channel.setblocking(False)
        channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
        self._router.watch(channel.fileno(), lambda: self._answer(channel))

    def _answer(self, channel: socket.socket) -> None:
        with suppress(OSError):
            words = channel.recv(MAX_REQUEST_BYTES)
            channel.send(msgspec.json.encode(self._reply(words)))
        self._router.unwatch(channel.fileno())
        channel.close()

    def _reply(self, words: bytes) -> KeeperAnswer:
        try:
            return self._handle(msgspec.json.decode(words, type=Request))
        except msgspec.DecodeError as error:
            return KeeperAnswer(
                error=f"The lab's keeper is of another version ({error}); take the lab down and up again."
            )
        except InvalidRequest as error:
            return KeeperAnswer(error=str(error))
