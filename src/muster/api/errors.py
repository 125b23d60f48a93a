"""Every refusal as an answer that says what to do. Never repeats what was sent.

Knows HTTP statuses and the exception tree; knows no routes. What the body looks like is `error_shapes`' matter.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from muster.api.error_shapes import error_body
from muster.api.keys import KeyLimitReached
from muster.api.serving import Visit
from muster.errors import InvalidRequest, LimitReached, MusterError, NotAllowed

RETRY_S = 5
"""When to ask a pool again that could not serve: by then it may have mended itself."""


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class NoSuchPath(InvalidRequest):
    status = 404
    code = "not_found"


class InternalError(MusterError):
    """Something that nobody foresaw. Says where to look, and nothing of what was being done."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"The server failed unexpectedly; try again, and if it persists send its log of request {request_id} "
            "to the pool's operator."
        )


def error_response(error: MusterError, path: str, request_id: str) -> Response:
    headers: dict[str, str] = {}
    if isinstance(error, KeyLimitReached):
        if error.retry_after_s is not None:
            headers["retry-after"] = str(error.retry_after_s)
        else:
            headers["x-should-retry"] = "false"  # clients would otherwise wait and try in vain
    elif isinstance(error, LimitReached):
        headers["retry-after"] = "1"
    elif error.status == 503:
        headers["retry-after"] = str(RETRY_S)
    if isinstance(error, NotAllowed):
        headers["www-authenticate"] = "Bearer"
    # Escaped to ASCII: a message may name a field that is no valid Unicode.
    return Response(
        json.dumps(error_body(error, path, request_id)), error.status, headers, media_type="application/json"
    )


def install_error_handlers(app: FastAPI) -> None:
    """What a route raises becomes an answer."""

    async def on_muster_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, MusterError)
        return _answer(request, error)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _answer(request, describe_validation_errors(error.errors(), error.body))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        described = _describe_http_exception(request, error)
        response = _answer(request, described)
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        if error.status_code == 405 and (methods := _methods(app, request)):
            response.headers["allow"] = ", ".join(methods)
        return response

    app.add_exception_handler(MusterError, on_muster_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """All that the path answers, if it is a described one: a router names those of its first route alone."""
    paths = app.openapi()["paths"]
    of_path = [methods for path, methods in paths.items() if compile_path(path)[0].match(request.url.path)]
    return sorted({method.upper() for methods in of_path for method in methods})


def _answer(request: Request, error: MusterError) -> Response:
    visit: Visit = request.state.muster
    visit.error_code = error.code
    return error_response(error, request.url.path, visit.id)


def _describe_http_exception(request: Request, error: HTTPException) -> MusterError:
    if error.status_code == 404:
        return NoSuchPath(
            f"There is nothing at {request.url.path[:200]}; this server has /v1/chat/completions, /v1/completions, "
            "/v1/models and more; see /openapi.json."
        )
    if error.status_code == 405:
        return InvalidRequest(f"{request.url.path[:200]} does not answer {request.method}; see /openapi.json.")
    if error.status_code == 413:
        return BodyTooLarge(f"The body is too large: {error.detail}; send less in one request.")
    if error.status_code == 408:
        return InvalidRequest(f"The body did not come in time ({error.detail}); send it faster, or send less.")
    if error.status_code == 400 and error.detail.startswith("it holds"):
        return InvalidRequest(f"The body cannot be read as JSON: {error.detail}; a prompt is text, or a list of ids.")
    if error.status_code == 400:
        return InvalidRequest("The body cannot be read as JSON; send a JSON object in UTF-8.")
    return InvalidRequest(f"The request cannot be answered: {error.detail}; see /openapi.json.")


def describe_validation_errors(errors: Sequence[Mapping[str, Any]], body: Any) -> InvalidRequest:
    """One sentence for the first field that is wrong, naming it as a path into the body."""
    # Of the branches of a union, the one that got furthest into the body is the one that was meant.
    first = max(errors, key=lambda error: len(_written_path(error, body)))
    kind = first["type"]
    if kind == "json_invalid":
        return InvalidRequest(
            f"The body is not valid JSON ({first['ctx']['error']} at character {first['loc'][-1]}); correct it."
        )
    path = _written_path(first, body)
    if not path and isinstance(body, dict):
        return InvalidRequest("The body has a field whose name is not valid Unicode; remove it.")
    if not path:
        return InvalidRequest(
            "The body is not a JSON object; send one, with the header 'Content-Type: application/json'."
        )
    if kind == "extra_forbidden":
        return InvalidRequest(f"The field '{path}' is unknown; remove it.", path)
    if kind == "missing":
        return InvalidRequest(f"The field '{path}' is missing; add it.", path)
    wishes = dict.fromkeys(
        str(error["msg"]).removeprefix("Input should be ") for error in errors if _written_path(error, body) == path
    )
    return InvalidRequest(f"The field '{path}' is wrong: it should be {' or '.join(wishes)}; correct it.", path)


def _written_path(error: Mapping[str, Any], body: Any) -> str:
    """`messages[0].content`. The validator's location also names branches of a union; those are not in the body."""
    path, value = "", body
    steps = error["loc"][1:]
    for i, step in enumerate(steps):
        is_missing_one = error["type"] == "missing" and i == len(steps) - 1
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            path, value = f"{path}[{step}]", value[step]
        elif isinstance(step, str) and isinstance(value, dict) and (step in value or is_missing_one):
            path, value = (f"{path}.{step}" if path else step), value.get(step)
    return path[:200]
