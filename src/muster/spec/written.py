"""TOML that a person wrote, against a strict model: an error names the line or the key. Knows no particular file."""

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from muster.errors import InvalidRequest


class Table(BaseModel):
    """A table in which every unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


_Model = TypeVar("_Model", bound=Table)


def parse(text: str, model: type[_Model], what: str) -> _Model:
    """`what` begins the sentence ("The scenario"). Raises `InvalidRequest` that names the line or the key."""
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{what} is not valid TOML: {error}; correct that line.") from None
    except ValidationError as error:
        raise InvalidRequest(_explain(error.errors()[0], what)) from None


def suggest(wrong: str, names: Iterable[str]) -> str:
    """What to write instead of `wrong`, as the end of a sentence: the likely names, or all of them."""
    known = sorted(names)
    close = get_close_matches(wrong.lower(), known, n=3, cutoff=0.5)
    if not close:
        close = [name for name in known if name.startswith(wrong.lower()[:3])][:5] if len(wrong) >= 3 else []
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose one of {', '.join(known)}."


def _explain(first: ErrorDetails, what: str) -> str:
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{what} has an unknown key {key!r}; remove it or check its spelling."
    if first["type"] == "missing":
        return f"{what} lacks the key {key!r}; add it."
    reason = first["msg"].removeprefix("Value error, ")
    return f"{what}'s {key or 'tables'} cannot be used ({reason}); correct it."
