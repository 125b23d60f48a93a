"""Shapes of well-known models by name, for plans that need no weights. Their sizes come from `spec/shapes.toml`."""

import json
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from muster.cost.from_config import shape_from_config
from muster.errors import UnknownModel
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_shape import ModelShape
from muster.spec.written import suggest


def shape_names() -> list[str]:
    return sorted(_entries())


def named_shape(name: str, dtype: str | None = None, few_bits: FewBits = AS_STORED) -> ModelShape:
    """Raises `UnknownModel` with the closest names, `UnsupportedModel` on a dtype that is not served."""
    if name not in _entries():
        raise UnknownModel(f"There is no model shape {name!r} with Muster; {suggest(name, shape_names())}", "model")
    return shape_from_config(shape_config(name), name, dtype, few_bits)


def shape_config(name: str) -> str:
    """The text of a config.json with what decides the sizes of one of `shape_names()`."""
    return json.dumps(_entries()[name]["config"])


def printed_parameters(name: str) -> float:
    """How many parameters the authors say that the model has."""
    return float(_entries()[name]["parameters"]) * 1e9


@cache
def _entries() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("muster.spec").joinpath("shapes.toml").read_text("utf-8"))
