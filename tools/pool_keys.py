"""Generated part of docs/pools.md: every key of a pool file, from the tables that read it."""

from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from muster.spec.link_table import WrittenLink, WrittenMatrix, WrittenSpeed
from muster.spec.pool_file import PoolFile, WrittenMachine, WrittenMarket
from muster.spec.ranges import MAX_NAME
from muster.spec.written import Table
from muster.spec.written_tiers import WrittenTiers

TABLES: tuple[tuple[str, type[Table]], ...] = (
    ("At the top of the file", PoolFile),
    ("`[[machine]]`", WrittenMachine),
    ("`[[link]]`", WrittenLink),
    ("`[matrix]`", WrittenMatrix),
    ("`[inside]`, `[elsewhere]`, and `inside` of a machine", WrittenSpeed),
    ("`tiers` of a machine", WrittenTiers),
    ("`[market]`", WrittenMarket),
)
_KINDS = {str: "text", bool: "true or false", float: "number", int: "whole number", dict: "table", tuple: "list"}


def keys() -> str:
    """One table of keys for each table of a pool file."""
    return "\n\n".join(f"{title}:\n\n{table(model)}" for title, model in TABLES)


def table(model: type[Table]) -> str:
    """One row for each key: what may stand there, what stands there without it, and what it means."""
    rows = ["| key | is | default | |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        says = " ".join((field.description or "").split())
        rows.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {says} |")
    return "\n".join(rows)


def _kind(field: FieldInfo) -> str:
    wanted = next(kind for kind in _parts(field.annotation) if kind is not NoneType)
    if get_origin(wanted) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(wanted))
    plain = get_origin(wanted) or wanted
    if isinstance(plain, type) and issubclass(plain, Table):
        return "table"
    if plain is tuple and any(isinstance(part, type) and issubclass(part, Table) for part in get_args(wanted)):
        return "tables"
    limits = [*field.metadata, *_limits(field.annotation)]
    least = next((limit.ge for limit in limits if isinstance(limit, Ge)), None)
    most = next((limit.le for limit in limits if isinstance(limit, Le)), None)
    span = "" if least is None or most is None else f", {_figure(least)} to {_figure(most)}"
    return _KINDS[plain] + (f", at most {MAX_NAME} letters" if plain is str and limits else span)


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of `X | None`, without what is annotated to them."""
    if hasattr(annotation, "__metadata__"):
        yield from _parts(annotation.__origin__)
    elif get_origin(annotation) in (tuple, dict, Literal) or not get_args(annotation):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _parts(part)


def _limits(annotation: Any) -> Iterator[Any]:
    """Everything annotated, at any depth."""
    for note in getattr(annotation, "__metadata__", ()):
        yield note
        yield from getattr(note, "metadata", ())
    for part in get_args(annotation):
        if not isinstance(part, str):
            yield from _limits(part)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return f"{field.default}" if isinstance(field.default, int | float | str) else ""


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
