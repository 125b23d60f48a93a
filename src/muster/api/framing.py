"""How a stream of JSON travels: server-sent events as each API writes them, or a line for each. Knows no content."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from muster.api.error_shapes import anthropic_error, openai_error
from muster.errors import MusterError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Framing:
    media_type: str
    frame: Callable[[Json], bytes]
    end: bytes
    """After the last piece."""
    silence: bytes
    """Says that the stream is still there; empty where nothing can be said that a client would skip."""
    error: Callable[[MusterError, str], Json]
    """The last piece of a stream that broke, of an error and the request's id."""


_ENCODER = msgspec.json.Encoder()


def _json(piece: Json) -> bytes:
    """As `json.dumps` writes it, in ASCII: some clients split lines at more characters than the newline. It is done
    with every token, so what is several times as quick is tried first."""
    try:
        written = msgspec.json.format(_ENCODER.encode(piece), indent=0)
    except UnicodeEncodeError:  # half a character, as an echoed prompt may have it
        return json.dumps(piece).encode()
    return written if written.isascii() else json.dumps(piece).encode()


def _data(piece: Json) -> bytes:
    return b"data: %b\n\n" % _json(piece)


def _named(piece: Json) -> bytes:
    return b"event: %b\n%b" % (piece["type"].encode(), _data(piece))


def _responses_error(error: MusterError, request_id: str) -> Json:
    parameter = getattr(error, "parameter", None)
    return {"type": "error", "code": error.code, "message": str(error), "param": parameter, "sequence_number": 0}


_COMMENT = b": still at work\n\n"
CHUNKS = Framing(
    "text/event-stream", _data, b"data: [DONE]\n\n", _COMMENT, lambda error, request_id: openai_error(error)
)
"""OpenAI's completions."""
RESPONSES = Framing("text/event-stream", _named, b"", _COMMENT, _responses_error)
MESSAGES = Framing("text/event-stream", _named, b"", _COMMENT, anthropic_error)
LINES = Framing(
    "application/x-ndjson",
    lambda piece: _json(piece) + b"\n",
    b"",
    b"",
    lambda error, request_id: {"error": str(error)},
)
"""Ollama's."""
