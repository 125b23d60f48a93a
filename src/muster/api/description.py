"""What the server says of itself in /openapi.json: which answers to expect, how to show a key. Knows routes by path.

FastAPI declares 422 for a wrong field; here that is a 400 in OpenAI's shape, and what the gate and the backend may
refuse is declared with the routes that they stand before.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from muster.api.error_shapes import is_under

Json = dict[str, Any]
Answers = dict[int | str, Json]

_REASONS = {
    400: "Something in the request is wrong; `param` names it.",
    401: "No key, or not one of this pool's.",
    404: "There is no such thing, or another model is served.",
    405: "This path has other methods; see the header `Allow`.",
    408: "The body did not come in time.",
    413: "The body is larger than what is read.",
    429: "A limit of the key is reached; see the header `Retry-After`.",
    500: "The server failed unexpectedly.",
    503: "The pool cannot serve now; see the header `Retry-After`.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


_MESSAGES_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
_OLLAMA_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def refusals(*statuses: int) -> Answers:
    """What a route may answer besides its answer, and what any may: the gate refuses, or something breaks."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": _REASONS[status], "content": error} for status in sorted({400, 401, 500, *statuses})
    }


_ANSWERED: Answers = {
    200: {
        "description": "The answer, or with `stream: true` its pieces as server-sent events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
_IN_LINES: Answers = {
    200: {
        "description": "The answer in pieces, one JSON object a line; with `stream: false` one object.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}
GENERATION = _ANSWERED | refusals(404, 408, 413, 429, 503)
GENERATION_IN_LINES = _IN_LINES | refusals(404, 408, 413, 429, 503)
HEALTH: Answers = {
    status: {"description": words, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, words in {200: "Requests can be served.", 503: "Machines are awaited."}.items()
}


def describe(app: FastAPI, strict_fields: bool) -> None:
    """Have `app.openapi` tell what is so."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            schema = _corrected(get_openapi(title=app.title, version=app.version, routes=app.routes))
            if not strict_fields:
                for part in schema["components"]["schemas"].values():
                    part.pop("additionalProperties", None)  # an unknown field is left out, and noted in a header
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _corrected(schema: Json) -> Json:
    parts = schema.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {"Error": _ERROR, "MessagesError": _MESSAGES_ERROR, "OllamaError": _OLLAMA_ERROR}
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key of `muster keys add`; none while none is."},
        "x_api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "The same key."},
        "admin": {"type": "http", "scheme": "bearer", "description": "The content of the head's admin.token."},
    }
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            _name_error(path, operation["responses"])
            if path.startswith("/admin"):
                operation["security"] = [{"admin": []}]
            elif path != "/health":
                operation["security"] = [{}, {"key": []}, {"x_api_key": []}]
    return schema


def _name_error(path: str, responses: Json) -> None:
    """Some paths refuse in the shape of another API, see `error_shapes`."""
    name = "MessagesError" if is_under(path, "/v1/messages") else "OllamaError" if is_under(path, "/api") else "Error"
    for status, response in responses.items():
        if int(status) >= 400 and path != "/health":
            response["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
