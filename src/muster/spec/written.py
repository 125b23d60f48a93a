"""TOML that a person wrote, against a strict model: an error names the line or the key. Knows no particular file."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from muster.errors import InvalidRequest


class Table(BaseModel):
    """A table in which every unknown key is an error, and no text or truth value stands for a number.

    The docstring of a key says what it means; pages are made of them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def with_units(written: object, short: Mapping[str, str]) -> object:
    """A table whose short keys (`bandwidth`) are the long ones (`bandwidth_bytes_per_s`); they need a unit."""
    if not isinstance(written, dict):
        return written
    table = dict(written)
    for key, long in short.items():
        if key in table and long not in table:
            if not isinstance(table[key], str):
                raise ValueError(f"{key} needs a unit, in quotes; or write {long}")
            table[long] = table.pop(key)
    return table


_Model = TypeVar("_Model", bound=Table)


def parse(text: str, model: type[_Model], what: str) -> _Model:
    """`what` begins the sentence ("The scenario"). Raises `InvalidRequest` that names the line or the key."""
    try:
        return model.model_validate(_frozen(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        remedy = _quoted(text, str(error)) or "correct that line"
        raise InvalidRequest(f"{what} is not valid TOML: {error}; {remedy}.") from None
    except RecursionError:
        raise InvalidRequest(f"{what} is nested too deeply; tables of tables of tables are enough.") from None
    except ValidationError as error:
        # A misspelt key is unknown and another one is missing; the first is what to correct.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise InvalidRequest(_explain(first, what)) from None


def suggest(wrong: str, names: Iterable[str]) -> str:
    """What to write instead of `wrong`, as the end of a sentence: the likely names, or all of them."""
    known = sorted(names)
    close = get_close_matches(wrong.lower(), known, n=3, cutoff=0.5)
    if not close:
        close = [name for name in known if name.startswith(wrong.lower()[:3])][:5] if len(wrong) >= 3 else []
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose one of {', '.join(known)}."


def _frozen(value: Any) -> Any:
    """Lists as tuples, which is what tables hold."""
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


_PLACE = re.compile(r"at line (\d+), column (\d+)")
_NUMBER, _UNIT = re.compile(r"\d[\d._]*\s?$"), re.compile(r"[A-Za-zµ%][\w/]*")


def _quoted(text: str, error: str) -> str:
    """What to write where a number is followed by a unit (`25ms`), which TOML takes only in quotes."""
    if not (place := _PLACE.search(error)):
        return ""
    line, column = text.split("\n")[int(place[1]) - 1], int(place[2]) - 1
    number, unit = _NUMBER.search(line[:column]), _UNIT.match(line[column:])
    return f'write "{number[0].strip()}{unit[0]}" in quotes, because it has a unit' if number and unit else ""


_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "one of {expected}",
    "model_type": "a table",
    "string_type": "text in quotes",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list (of tables: each under a heading in double brackets)",
}
"""pydantic's kinds of error, in the words of somebody who writes TOML."""


def _explain(first: ErrorDetails, what: str) -> str:
    where = _where(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{what} has an unknown key {where}; remove it or check its spelling."
    if first["type"] == "missing":
        return f"{what} lacks {where}; add it."
    wanted = _WANTED.get(first["type"])
    if wanted is None:
        reason = first["msg"].removeprefix("Value error, ")
        return f"{what}'s {where or 'tables'} cannot be used ({reason}); correct it."
    return f"{what}'s {where} must be {wanted.format(**first.get('ctx', {}))}{_instead(first['input'])}; correct it."


def _where(place: tuple[int | str, ...]) -> str:
    """`'count' in [[machine]] 2`, counted from 1; `'elsewhere.latency_s'`; `row 2 of 'matrix.latency_s'`."""
    table, *rest = place or ("",)
    if rest and isinstance(rest[0], int):
        number, *rest = rest
        inside = f"[[{table}]] {int(number) + 1}"
        return f"{_key(rest)} in {inside}" if rest else inside
    return _key(place)


def _key(place: Sequence[int | str]) -> str:
    # pydantic marks what is wrong with a key itself, and not with its value, by "[key]".
    names = ".".join(part for part in place if isinstance(part, str) and part != "[key]")
    counts = [part + 1 for part in place if isinstance(part, int)]
    entries = "".join(f"{word} {count} of " for word, count in zip(("entry", "row"), reversed(counts), strict=False))
    return f"{entries}{names!r}" if names else ""


def _instead(found: Any) -> str:
    """What stands there, where it is short."""
    if isinstance(found, bool):
        return f", not {str(found).lower()}"
    return f", not {found!r}" if isinstance(found, int | float | str) and len(repr(found)) <= 40 else ""
