"""Limits of a model, kept with what else can be found out again: by manifest and dtype, for each layer."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from muster.disk import cache_directory, write_if_possible
from muster.errors import InvalidRequest
from muster.verify.limits import DriftLimits

FOLDER = "limits"


class ModelLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the boundary before each layer, and behind the last."""

    manifest: str
    dtype: str
    layers: Mapping[int, DriftLimits]
    windows: int
    """Honest blocks that the limits of each layer rest on."""
    variants: tuple[str, ...] = ()


def path_of(manifest: str, dtype: str) -> Path:
    return cache_directory() / FOLDER / f"{manifest[:32]}-{dtype}.json"


def keep(limits: ModelLimits) -> Path:
    path = path_of(limits.manifest, limits.dtype)
    write_if_possible(path, msgspec.json.encode(limits))
    return path


def limits_for(manifest: str, dtype: str, model: str) -> ModelLimits:
    """Raises `InvalidRequest` where there are none."""
    try:
        found = msgspec.json.decode(path_of(manifest, dtype).read_bytes(), type=ModelLimits)
    except (OSError, msgspec.MsgspecError):
        found = None
    if found is None or (found.manifest, found.dtype) != (manifest, dtype):
        raise InvalidRequest(
            f"Nothing is known of what rounding does to {model} in {dtype}; run "
            f"`muster calibrate {model} --dtype {dtype}` first.",
            "model",
        )
    return found
