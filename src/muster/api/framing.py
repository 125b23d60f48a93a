"""How a stream of JSON travels: server-sent events as each API writes them, or a line for each. Knows no content."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.api.error_shapes import anthropic_error, openai_error
from muster.errors import MusterError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Framing:
    media_type: str
    frame: Callable[[Json], str]
    end: str
    """After the last piece."""
    silence: str
    """Says that the stream is still there; empty where nothing can be said that a client would skip."""
    error: Callable[[MusterError, str], Json]
    """The last piece of a stream that broke, of an error and the request's id."""


# json.dumps escapes all but ASCII: some clients split lines at more characters than the newline.


def _data(piece: Json) -> str:
    return f"data: {json.dumps(piece)}\n\n"


def _named(piece: Json) -> str:
    return f"event: {piece['type']}\n{_data(piece)}"


def _responses_error(error: MusterError, request_id: str) -> Json:
    parameter = getattr(error, "parameter", None)
    return {"type": "error", "code": error.code, "message": str(error), "param": parameter, "sequence_number": 0}


_COMMENT = ": still at work\n\n"
CHUNKS = Framing(
    "text/event-stream", _data, "data: [DONE]\n\n", _COMMENT, lambda error, request_id: openai_error(error)
)
"""OpenAI's completions."""
RESPONSES = Framing("text/event-stream", _named, "", _COMMENT, _responses_error)
MESSAGES = Framing("text/event-stream", _named, "", _COMMENT, anthropic_error)
LINES = Framing(
    "application/x-ndjson",
    lambda piece: json.dumps(piece) + "\n",
    "",
    "",
    lambda error, request_id: {"error": str(error)},
)
"""Ollama's."""
