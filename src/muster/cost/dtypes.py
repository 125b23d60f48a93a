"""In which dtype a model is computed: one rule for whoever plans it and whoever serves it. Knows no architecture.

The checkpoint says what precision there is to lose, and the machines say what they compute fast. Of the dtypes that a
checkpoint may be computed in, that one is taken in which all machines of the pool together multiply matrices fastest;
a narrower one where they cannot hold the model in it.
"""

from collections.abc import Iterable, Sequence

from muster.cost.config_fields import Fields
from muster.cost.memory import dtype_bytes
from muster.errors import UnsupportedModel
from muster.spec.pool import Device, Node

_MAY_BE_COMPUTED_IN = {
    "bfloat16": ("bfloat16", "float32"),
    "float16": ("float16", "bfloat16", "float32"),
    "float32": ("float32",),
}
"""By the checkpoint's own dtype; the first of equally fast ones is taken. Nothing is computed in less precision than it
was published in, but for the last three bits of float16, which processors do not compute. bfloat16 in float16 is not
among them: its large numbers become infinite there."""
DTYPES = tuple(sorted(_MAY_BE_COMPUTED_IN, reverse=True))
"""That are served."""
DEFAULT_DTYPE = "bfloat16"
_SERVED_AS = {"float": "float32", "double": "float32", "float64": "float32", "half": "float16"}


def check_dtype(dtype: str) -> str:
    """Raises `UnsupportedModel` on one that is not served."""
    if dtype not in DTYPES:
        raise UnsupportedModel(f"dtype {dtype[:20]!r} is not served; choose one of {', '.join(DTYPES)}.")
    return dtype


def checkpoint_dtype(fields: Fields) -> str:
    """The dtype that a configuration names, or the one that is served in its place; else `DEFAULT_DTYPE`.

    `auto`, a null or nothing at all leave it open, and so does a dtype that Muster does not know.
    """
    named = str(fields.value("dtype", "torch_dtype")).removeprefix("torch.")
    served = _SERVED_AS.get(named, named)
    return served if served in DTYPES else DEFAULT_DTYPE


def possible_dtypes(fields: Fields, wanted: str | None = None) -> tuple[str, ...]:
    """What a model may be computed in, the checkpoint's own first; `wanted` is an operator's word, which is the last.

    Raises `UnsupportedModel` on a wanted one that is not served.
    """
    return (check_dtype(wanted),) if wanted else possible_for(checkpoint_dtype(fields))


def possible_for(checkpoint: str) -> tuple[str, ...]:
    """By the checkpoint's own dtype, which comes first."""
    return _MAY_BE_COMPUTED_IN[checkpoint]


def fastest_dtype(possible: Sequence[str], nodes: Iterable[Node]) -> str:
    """Of the possible ones; the first where no machine is known."""
    return dtypes_to_try(possible, nodes)[0]


def dtypes_to_try(possible: Sequence[str], nodes: Iterable[Node]) -> tuple[str, ...]:
    """The fastest; then the narrower ones, for machines that cannot hold the model in it."""
    machines = list(nodes)
    speeds = {dtype: sum(one.device_count * _speed(one.device, dtype) for one in machines) for dtype in possible}
    fastest, *others = sorted(possible, key=lambda dtype: -speeds[dtype])
    return (fastest, *(dtype for dtype in others if dtype_bytes(dtype) < dtype_bytes(fastest)))


def _speed(device: Device, dtype: str) -> float:
    """FLOP/s. What it does not list, an accelerator computes as fast as float32; a CPU crawls, which counts as 0."""
    plain = device.flops_per_s.get("float32", 1.0)
    return device.flops_per_s.get(dtype, plain if dtype == "float32" or device.kind != "cpu" else 0.0)
