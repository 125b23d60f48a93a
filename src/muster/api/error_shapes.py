"""A refusal in the shape of the API that was asked. Knows paths and the exception tree; never repeats what was sent.

OpenAI       {"error": {"message", "type", "param", "code"}}                     everywhere else
Anthropic    {"type": "error", "error": {"type", "message"}, "request_id"}       /v1/messages
Ollama       {"error": "..."}                                                    /api
"""

from typing import Any

from muster.errors import MusterError

Json = dict[str, Any]

_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: MusterError, path: str, request_id: str) -> Json:
    if is_under(path, "/v1/messages"):
        return anthropic_error(error, request_id)
    if is_under(path, "/api"):
        return {"error": str(error)}
    return openai_error(error)


def is_under(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def openai_error(error: MusterError) -> Json:
    kind = "server_error" if error.status >= 500 else _OPENAI_TYPES.get(error.status, "invalid_request_error")
    parameter = getattr(error, "parameter", None)
    return {"error": {"message": str(error), "type": kind, "param": parameter, "code": error.code}}


def anthropic_error(error: MusterError, request_id: str) -> Json:
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": request_id}
