"""What every request passes before any route: a request id, the key and its limits, the size of the body, the log.

An ASGI middleware. Knows paths and headers; never reads or logs what a body says.

    /health, /openapi.json   open to all who can connect
    /admin/...               asks for the admin token by itself; never answers a web page
    everything else          needs a key as soon as the store has one. A server that began with keys goes on asking
                             for them after the last one was revoked; one that began without answers only requests
                             addressed to this machine by name, so that no web page can reach it through a foreign name.
"""

import asyncio
import time
import traceback
from contextlib import nullcontext

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.api.answer_headers import Pairs, answer_headers, client_request_id
from muster.api.asked_once import AskedOnce
from muster.api.body import BodyReader
from muster.api.errors import InternalError, error_response
from muster.api.ignored import OF_THIS_REQUEST, IgnoredFields
from muster.api.keys import KeyStore, Limiter, is_loopback, offered_key
from muster.api.origins import Origins, host_name
from muster.api.serving import ServingOptions, Visit
from muster.errors import MusterError, NotAllowed
from muster.metrics import Metrics

log = structlog.get_logger()

_OPEN_PATHS = ("/health", "/openapi.json")
_WATCHERS_PATHS = ("/health", "/metrics")
"""Asked again and again by programs that watch; what they see is to be the others' requests."""
SEND = "server_send"
"""Where a request's state has the way to the server, past all that looks at the start of an answer."""
CUT_OFF = "server_stopped"
"""What the log says of a request whose client read too slowly to be told that the server ends."""
_KNOWN_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/messages",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
    "/api",
    "/health",
    "/metrics",
    "/admin",
)


def log_unexpected(visit: Visit, error: Exception) -> None:
    """Where it happened and of what kind. Not the error's text, which may quote a prompt."""
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("request.failed_unexpectedly", request=visit.id, kind=type(error).__name__, where=where[-6:])


class Gate:
    def __init__(self, app: ASGIApp, metrics: Metrics, options: ServingOptions, keys: KeyStore | None) -> None:
        self._app = app
        self._metrics = metrics
        self._bodies = BodyReader(options)
        self._strict_fields = options.strict_fields
        self._origins = Origins(options.allow_origins)
        self._keys = keys
        self._limiter = Limiter()
        self._always_locked = keys is not None and keys.has_keys()
        self._has_keys = None if keys is None else AskedOnce(keys.has_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = tidy_path(scope["path"])
        headers = Headers(scope=scope)
        visit = Visit(
            path=_known_path(scope["path"]),
            client_id=client_request_id(headers.get("x-request-id")),
            ignored=IgnoredFields(self._strict_fields),
        )
        scope.setdefault("state", {}).update({"muster": visit, SEND: send})
        OF_THIS_REQUEST.set(visit.ignored)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).extend(self._more_headers(visit, headers))
            await send(message)

        try:
            with self._metrics.running.track_inprogress() if _is_work(visit) else nullcontext():
                await self._pass(visit, scope, receive, send_with_headers)
        except asyncio.CancelledError:  # whoever is not done when the server ends
            visit.error_code = visit.error_code or CUT_OFF
            raise
        except Exception as error:
            log_unexpected(visit, error)
            visit.error_code = InternalError.code
            if status == 0:
                await error_response(InternalError(visit.id), scope["path"], visit.id)(
                    scope, receive, send_with_headers
                )
        finally:
            await self._leave(visit, status, scope["method"])

    def _more_headers(self, visit: Visit, headers: Headers) -> Pairs:
        remaining = {} if visit.key is None else self._limiter.remaining(visit.key)
        pages = [] if visit.path == "/admin" else self._origins.answer_headers(headers)
        return answer_headers(visit, remaining) + pages

    async def _pass(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        preflight = self._origins.preflight(scope["method"], headers) if visit.path != "/admin" else None
        if preflight is not None:
            await preflight(scope, receive, send)
            return
        try:
            await self._check_key(visit, scope, headers)
        except MusterError as error:
            visit.error_code = error.code
            await error_response(error, scope["path"], visit.id)(scope, receive, send)
            return
        await self._app(scope, self._bodies.receiver(receive, headers), send)

    async def _check_key(self, visit: Visit, scope: Scope, headers: Headers) -> None:
        path = scope["path"]
        if path in _OPEN_PATHS or path.startswith("/admin"):
            return
        if self._keys is None or not (self._always_locked or (self._has_keys and await self._has_keys())):
            self._check_from_here(headers)
            return
        record = await asyncio.to_thread(self._keys.verify, offered_key(headers))
        if record is None:
            raise NotAllowed("The API key is not one of this pool's or was revoked; ask its operator for a key.")
        visit.owner = record.id
        if scope["method"] == "POST":
            visit.key = record
            self._limiter.admit(record)
            visit.charge = lambda tokens: self._limiter.charge(record, tokens)

    def _check_from_here(self, headers: Headers) -> None:
        if not is_loopback(host_name(headers.get("host", ""))):
            raise NotAllowed(
                "Without API keys this server answers only requests addressed to localhost; "
                "add a key with `muster keys add NAME` and send it."
            )
        # Browsers name the page behind a request; other clients name none.
        origin = headers.get("origin")
        if origin is not None and not self._origins.allow(origin):
            raise NotAllowed(
                "Without API keys this server does not answer web pages from elsewhere; start it with "
                "--allow-origin and the page's origin, or add a key with `muster keys add NAME` and send it."
            )

    async def _leave(self, visit: Visit, status: int, method: str) -> None:
        metrics = self._metrics
        # 499 is what proxies log for a client that closed the connection before it was answered.
        metrics.requests.labels(visit.path, str(status or 499)).inc()
        metrics.prompt_tokens.inc(visit.prompt_tokens)
        metrics.completion_tokens.inc(visit.completion_tokens)
        if visit.left:
            metrics.cancelled.inc()
        if visit.error_code:
            metrics.errors.labels(visit.error_code).inc()
        if not _is_watching(visit, status, method):
            _log_visit(visit, status)
        if self._keys is not None and visit.key is not None and visit.prompt_tokens + visit.completion_tokens:
            try:
                await asyncio.to_thread(
                    self._keys.record_usage, visit.key.id, visit.prompt_tokens, visit.completion_tokens
                )
            except MusterError as error:  # a full disk; the client has its answer already
                log.error("usage.lost", request=visit.id, key=visit.key.id, reason=str(error))


def _is_work(visit: Visit) -> bool:
    return visit.path not in (*_WATCHERS_PATHS, "/admin")


def _is_watching(visit: Visit, status: int, method: str) -> bool:
    """Whether somebody merely looks, again and again: to log that would hide what happens."""
    return visit.path in _WATCHERS_PATHS or (visit.path == "/admin" and method == "GET" and 0 < status < 400)


def _log_visit(visit: Visit, status: int) -> None:
    log.info(
        "request",
        request=visit.id,
        client_request=visit.client_id,
        path=visit.path,
        status=status or 499,
        key=visit.key.id if visit.key else None,
        error=visit.error_code,
        left=visit.left,
        prompt_tokens=visit.prompt_tokens,
        completion_tokens=visit.completion_tokens,
        seconds=round(time.perf_counter() - visit.arrived_s, 3),
    )


def tidy_path(path: str) -> str:
    """Without what people put too much: `//v1/models/` is `/v1/models`."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _known_path(path: str) -> str:
    """One of a few names, so that visitors cannot invent label values."""
    return next((known for known in _KNOWN_PATHS if path == known or path.startswith(known + "/")), "other")
