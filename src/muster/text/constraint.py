"""What an output must be, as a grammar: of a JSON schema, an expression, a list of choices. Writes them, never reads.

A grammar is Lark text in the dialect of llguidance, whatever it was made of: so whoever wants a schema inside of
something else (the arguments of a call) writes the rest around `json_rule`. Whether it makes sense is found when it is
compiled, which takes time and is done elsewhere. Knows nothing of HTTP, tokens or models.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from muster.errors import InvalidRequest

Schema = Mapping[str, Any] | bool

WHITESPACE = r"[ \t]|\r?\n[ \t]{0,64}"
"""Between the parts of JSON: a space, or a new line that is indented. Where more is allowed, models are known to write
nothing else for ever."""

_TO_ESCAPE = re.compile(r"\\.|/|\n", re.DOTALL)
_ESCAPED = {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}
"""Between slashes a slash ends the expression, and the end of a line everything."""


def json_rule(schema: Schema, whitespace: str | None = WHITESPACE) -> str:
    """A nonterminal that is any JSON value of the schema. `whitespace` is an expression; None allows none.

    Raises `InvalidRequest` where the schema holds what JSON has no word for.
    """
    style = {"whitespace_flexible": False} if whitespace is None else {"whitespace_pattern": whitespace}
    # Of the form `{"x-guidance": ...}` only our own is meant: a client's could have parts of its schema ignored.
    written = {**schema, "x-guidance": style} if isinstance(schema, Mapping) else _of_truth(schema, style)
    try:
        return "%json " + json.dumps(written, allow_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The schema cannot be written as JSON ({error}); take that out.") from None


def _of_truth(schema: bool, style: Mapping[str, Any]) -> dict[str, Any]:
    return {"x-guidance": style} if schema else {"x-guidance": style, "enum": []}


def grammar_of_schema(schema: Schema, whitespace: str | None = WHITESPACE) -> str:
    """One JSON value of the schema (draft 2020-12). Raises `InvalidRequest`."""
    return f"start: {json_rule(schema, whitespace)}"


def any_object(whitespace: str | None = WHITESPACE) -> str:
    """Any JSON object."""
    return grammar_of_schema({"type": "object"}, whitespace)


def grammar_of_regex(expression: str) -> str:
    """A text that the expression matches from its first to its last character. Syntax: that of Rust's `regex`."""
    return f"start: {regex_terminal(expression)}"


def regex_terminal(expression: str) -> str:
    """The expression between slashes, as Lark writes it."""
    written = _TO_ESCAPE.sub(lambda found: _ESCAPED.get(found[0], found[0]), expression)
    return f"/{written}/" if written else '""'


def grammar_of_choice(choices: Sequence[str]) -> str:
    """One of these texts. Raises `InvalidRequest` where there are none."""
    if not choices:
        raise InvalidRequest("There is nothing to choose from; give at least one choice.")
    return "start: " + " | ".join(text_terminal(choice) for choice in choices)


def text_terminal(text: str) -> str:
    """The text itself, in quotation marks."""
    return json.dumps(text)
