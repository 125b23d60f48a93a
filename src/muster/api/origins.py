"""Which web pages may call the door: CORS, as browsers ask for it. Knows no routes and no keys.

A browser sends a page's script's requests with the page's origin, and gives the script an answer only if the answer
names that origin. Before anything but the simplest request it asks (`OPTIONS`, a preflight), and that never carries a
key. Whoever is no browser names no origin and is not concerned.
"""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import Response

from muster.api.answer_headers import READABLE
from muster.api.keys import is_loopback
from muster.errors import InvalidRequest

ANY = "*"
PREFLIGHT_S = 600
_PLACE = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\s\[\]@:/?#\\]+)(:[0-9]{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://(?P<place>[^/]*)", re.ASCII)
_HEADER_NAMES = re.compile(r"[a-zA-Z0-9_, -]{0,1000}", re.ASCII)


def host_name(host: str) -> str:
    """The name in `name`, `name:port`, `address` or `[address]:port`; empty for anything else."""
    found = _PLACE.fullmatch(host)
    return found["name"] if found else ""


class Origins:
    """Pages of this machine's own servers, and those that the operator names."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Each is an origin as a browser spells it, or `*` for every page. Raises `InvalidRequest`."""
        self._allowed = frozenset(map(_checked, allowed))

    def allow(self, origin: str) -> bool:
        if ANY in self._allowed or origin.lower() in self._allowed:
            return True
        found = _ORIGIN.fullmatch(origin)
        return found is not None and is_loopback(host_name(found["place"]))

    def answer_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What an answer says so that the page may read it."""
        origin = headers.get("origin")
        if origin is None or not self.allow(origin):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", READABLE.encode()),
            (b"vary", b"Origin"),
        ]

    def preflight(self, method: str, headers: Headers) -> Response | None:
        """The answer to a page that asks whether it may ask, None for anything else."""
        asks = method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers
        if not asks or not self.allow(headers["origin"]):
            return None
        wanted = headers.get("access-control-request-headers", "")
        answer = {
            "access-control-allow-methods": "GET, POST, DELETE",
            "access-control-allow-headers": wanted if _HEADER_NAMES.fullmatch(wanted) else "authorization",
            "access-control-max-age": str(PREFLIGHT_S),
        }
        if headers.get("access-control-request-private-network") == "true":
            answer["access-control-allow-private-network"] = "true"
        return Response(status_code=204, headers=answer)


def _checked(origin: str) -> str:
    found = _ORIGIN.fullmatch(origin.rstrip("/"))
    if origin != ANY and (found is None or not host_name(found["place"])):
        raise InvalidRequest(
            f"{origin!r} is no origin of a web page; write one like https://chat.example or http://192.168.0.7:3000, "
            "or * for every page.",
            "allow_origin",
        )
    return origin.rstrip("/").lower()
