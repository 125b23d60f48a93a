"""The generated part of docs/api-fields.md: every field of every route, and what becomes of it. Knows no route by name.

The routes are those of the application, the fields those of the models that read their bodies, and what is refused is
in the tables by which it is refused.
"""

import re
from collections.abc import Iterator
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from muster.api.app import create_app
from muster.api.fields import all_of
from muster.api.ignored import places
from muster.api.serving import ServingOptions


def bodies() -> dict[str, type[BaseModel]]:
    """The model of each route's body, by path."""
    backend = SimpleNamespace(model="", max_context=0, vocab_size=0, status=dict)
    app = create_app(backend, SimpleNamespace(), options=ServingOptions(store_responses_s=1))  # type: ignore[arg-type]
    routes = [route for route in _routes(app.routes) if route.body_field is not None]
    return {route.path: route.body_field.field_info.annotation for route in routes}  # type: ignore[union-attr, misc]


def _routes(routes: Any) -> Iterator[APIRoute]:
    """Some versions of FastAPI keep an included router as it is."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (included := getattr(route, "original_router", None)) is not None:
            yield from _routes(included.routes)


def fields() -> str:
    """One table for each route."""
    lines: list[str] = []
    for path, body in bodies().items():
        lines += [f"## `POST {path}`", "", "| field | type | what becomes of it |", "|---|---|---|"]
        for model, place in places(body).items():
            lines += _rows(model, place)
        lines.append("")
    return "\n".join(lines).rstrip()


def _rows(model: type[BaseModel], place: str) -> Iterator[str]:
    refused, idle = all_of(model, "unsupported"), all_of(model, "without_effect")
    for name, field in sorted(model.model_fields.items()):
        if name in refused:
            values = " or ".join(f"`{_json(value)}`" for value in refused[name])
            fate = f"**refused**, unless it is {values}" if values else "**refused**"
        else:
            fate = "accepted, no effect" if name in idle else "done"
        said = _cell(re.sub(r"^Accepted; (has no effect and )?", "", field.description or ""))
        yield f"| `{place}{name}` | {_cell(_type(field))} | {f'{fate}: {said}' if said else fate} |"


def _json(value: object) -> str:
    return {False: "false", True: "true"}[value] if isinstance(value, bool) else str(value).replace("'", '"')


def _type(field: FieldInfo) -> str:
    words = list(dict.fromkeys(_words(field.annotation)))
    return " or ".join(words) + (", required" if field.is_required() else "")


def _words(kind: Any) -> Iterator[str]:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        for part in get_args(kind):
            yield from _words(part)
    elif origin is Literal:
        yield from (f"`{word}`" for word in get_args(kind))
    elif origin is list:
        yield "list"
    elif hasattr(kind, "__metadata__"):
        yield from _words(kind.__origin__)
    elif kind is not NoneType:
        names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any", dict: "object"}
        yield names.get(origin or kind, "object")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip()).replace("|", "\\|")
