"""Schemas that recurse for ever: every value of them holds another of the same kind. Reads JSON, knows no grammar.

The least fixed point over the places that `$ref` leads to: a place has an end if its schema allows a value that needs
only places that have one. What is not understood is taken to end.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

_JSON = re.compile(r"%json\s*")
MAX_ROUNDS = 64
"""A chain of more references than that is not followed to its end, and then nothing is said about it."""


def schemas_in(lark: str) -> Iterator[Any]:
    """The JSON behind every `%json` of a grammar."""
    decoder = json.JSONDecoder()
    for found in _JSON.finditer(lark):
        with suppress(ValueError):  # the compiler has words for it
            yield decoder.raw_decode(lark, found.end())[0]


def is_endless(schema: Any) -> bool:
    """Whether no value of the schema is finite."""
    ends = dict.fromkeys(_references(schema), False)
    for _ in range(MAX_ROUNDS):
        now = {reference: ended or _ends(_target(schema, reference), ends) for reference, ended in ends.items()}
        if now == ends:
            return not _ends(schema, ends)
        ends = now
    return False


def _references(schema: Any) -> set[str]:
    found, waiting = set(), [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            reference = part.get("$ref")
            if isinstance(reference, str):
                found.add(reference)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found


def _target(schema: Any, reference: str) -> Any:
    """What a reference within the schema leads to; anything, where it leads elsewhere."""
    if reference != "#" and not reference.startswith("#/"):
        return True
    for step in reference[1:].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict) and name in schema:
            schema = schema[name]
        elif isinstance(schema, list) and name.isdecimal() and int(name) < len(schema):
            schema = schema[int(name)]
        else:
            return True
    return schema


def _ends(schema: Any, ends: dict[str, bool]) -> bool:
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return True
    parts = [_ends(part, ends) for part in _list(schema, "allOf")]
    for name in ("anyOf", "oneOf"):
        if options := _list(schema, name):
            parts += [any(_ends(option, ends) for option in options)]
    if isinstance(schema.get("$ref"), str):
        parts.append(ends.get(schema["$ref"], True))
    return all(parts) and all(_ends(part, ends) for part in _needed(schema))


def _needed(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas of which every value holds a value."""
    if schema.get("type") in ("object", ["object"]):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            names = [name for name in _list(schema, "required") if isinstance(name, str)]
            yield from (properties[name] for name in names if name in properties)
    elif schema.get("type") in ("array", ["array"]):
        least = schema.get("minItems", 0)
        least = least if isinstance(least, int) else 0
        first = _list(schema, "prefixItems")
        yield from first[:least]
        if least > len(first):
            yield schema.get("items", True)


def _list(schema: dict[str, Any], name: str) -> list[Any]:
    written = schema.get(name)
    return written if isinstance(written, list) else []
