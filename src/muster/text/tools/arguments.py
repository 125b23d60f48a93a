"""Arguments that a model writes one by one, with marks around them, to the JSON text of an object. Knows no marks."""

import json
from collections.abc import Mapping
from typing import Any

from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, begin_call

_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class ObjectWriter:
    """Writes a call's arguments as they come."""

    def __init__(self, source: Source, turn: AssistantTurn, name: str) -> None:
        begin_call(source, turn, name)
        self._turn = turn
        self._properties = properties_of(turn.schemas.get(name, {}))
        self._written = False

    def key(self, key: str) -> bool:
        """Says whether the value is a text, whatever is written."""
        self._turn.argue(f"{', ' if self._written else '{'}{_json(key)}: ")
        self._written = True
        return is_text(self._properties.get(key))

    def text(self, piece: str) -> None:
        """Of a string that has begun."""
        self._turn.argue(_json(piece)[1:-1])

    def quote(self) -> None:
        """A string begins or ends."""
        self._turn.argue('"')

    def value(self, written: str) -> None:
        """One that is JSON if it can be read as such, else a string."""
        self._turn.argue(as_json(written))

    def end(self) -> None:
        self._turn.argue("}" if self._written else "{}")
        self._turn.end()


def argument(source: Source, writer: ObjectWriter, key: str, end: str, in_lines: bool) -> Steps[bool]:
    """Read a value up to the mark `end`. `in_lines`: it stands on lines of its own. False if it breaks off."""
    if in_lines:
        yield from source.skip("\n")
    if writer.key(key):
        held = ""

        def take(piece: str) -> None:
            nonlocal held
            piece = held + piece
            held = "\n" if in_lines and piece.endswith("\n") else ""
            writer.text(piece[: len(piece) - len(held)])

        writer.quote()
        if (yield from source.until((end,), take)) is None:
            return False
        writer.quote()
        return True
    written: list[str] = []
    if (yield from source.until((end,), written.append)) is None:
        return False
    value = "".join(written)
    writer.value(value.removesuffix("\n") if in_lines else value)
    return True


def text_until(source: Source, end: str) -> Steps[str]:
    """Raises `NoCall` where `end` does not come."""
    written: list[str] = []
    if (yield from source.until((end,), written.append)) is None:
        raise NoCall
    return "".join(written)


def properties_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def is_text(schema: Any) -> bool:
    """Nothing but a string fits."""
    if not isinstance(schema, dict):
        return False
    if "type" in schema:
        return bool(schema["type"] == "string")
    choices = schema.get("enum")
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, str) for choice in choices)


def as_json(written: str) -> str:
    word = written.strip()
    word = _PYTHON_WORDS.get(word, word)
    try:
        json.loads(word, parse_constant=_refuse)
        _ = word.encode()
    except (ValueError, RecursionError):
        return _json(written)
    return word


def _refuse(word: str) -> None:
    """NaN and Infinity are no JSON."""
    raise ValueError(word)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
