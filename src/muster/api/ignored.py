"""Fields that a body has and no route knows: left out and named in the answer's header, or refused. Knows no route.

Real clients send fields of other servers with every request. What Muster knows and does not do is refused by name
(`fields`), because it would change the answer; what it has never heard of cannot be meant for it.
"""

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import Any, get_args, get_origin
from urllib.parse import quote

from pydantic import BaseModel

HEADER = "x-muster-ignored-fields"
MAX_NAMED = 16
"""Names that the header holds; of more it says how many."""
MAX_NAME_CHARACTERS = 64


class IgnoredFields:
    """Those of one body."""

    def __init__(self, refuse: bool = False) -> None:
        """Where they are to be refused, nothing is noted: the validator names the first."""
        self.refuse = refuse
        self._names: dict[str, None] = {}
        self._more = 0
        self._body: type[BaseModel] | None = None

    def note(self, model: type[BaseModel], names: Iterable[str]) -> None:
        """`model` is the part of the body that has them. The body itself is the first to be read."""
        self._body = self._body or model
        place = places(self._body).get(model, "")
        for name in names:
            path = place + name[:MAX_NAME_CHARACTERS]
            if path in self._names:
                continue
            if len(self._names) < MAX_NAMED:
                self._names[path] = None
            else:
                self._more += 1

    @property
    def header(self) -> str:
        """Empty where all is known. A name is whatever a client wrote, so what is no name is escaped."""
        if not self._names:
            return ""
        # The empty name, too: a header that ends with a comma and a space is none, and its answer would never leave.
        named = [quote(name, safe=".[]", errors="replace") or '""' for name in self._names]
        return ", ".join([*named, f"and {self._more} more"] if self._more else named)


OF_THIS_REQUEST: ContextVar[IgnoredFields | None] = ContextVar("ignored_fields", default=None)
"""Set for each request before its body is read. Without it unknown fields are refused."""


@cache
def places(body: type[BaseModel]) -> dict[type[BaseModel], str]:
    """Where in a body its parts are: `{StreamOptions: "stream_options.", ChatMessage: "messages[]."}`."""
    found: dict[type[BaseModel], str] = {body: ""}
    unread = [body]
    while unread:
        model = unread.pop(0)
        for name, field in model.model_fields.items():
            for part, marks in _parts(field.annotation, ""):
                if part not in found:
                    found[part] = f"{found[model]}{field.alias or name}{marks}."
                    unread.append(part)
    return found


def _parts(annotation: Any, marks: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, marks
        return
    several = "[]" if get_origin(annotation) in (list, dict) else ""
    for inner in get_args(annotation):
        yield from _parts(inner, marks + several)
