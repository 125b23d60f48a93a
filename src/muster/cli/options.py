"""Options that several verbs share, declared once, and the words people write for sizes. Knows nothing of the verbs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from muster.errors import InvalidRequest

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}

_LEAST_BARE = 100_000
"""A smaller number without a unit was meant to have one."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
HeadUrl = Annotated[
    str | None,
    typer.Option(
        "--head",
        envvar="MUSTER_HEAD",
        help="The head's address, such as http://10.0.0.5:8000.",
        show_default="this machine's head",
    ),
]
AdminToken = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="MUSTER_ADMIN_TOKEN",
        help="The admin token of a head on another machine, from its file admin.token.",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option("--key", envvar="MUSTER_API_KEY", help="Your API key, if the head asks for one.")
]
Disk = Annotated[
    str | None,
    typer.Option(
        help="Lend so much of a disk, such as 100GB, for weights and cache of a model that memory does not hold.",
        show_default="none",
    ),
]
DiskDir = Annotated[
    Path | None,
    typer.Option(help="On the disk that has this folder.", show_default="the one with fetched weights"),
]
MachineName = Annotated[str | None, typer.Option("--name", help="Call this machine so.", show_default="its host name")]
Island = Annotated[
    str,
    typer.Option(
        "--island",
        help="This machine may share layers with others that name the same island: all on one fast network (below 1 ms "
        "and above 1 Gbit/s), or devices of one computer.",
    ),
]
Owner = Annotated[
    str,
    typer.Option(
        "--owner",
        help="Whose machine this is. In private sessions machines of one owner get the same part of a prompt.",
        show_default="its island's, or nobody else's",
    ),
]
Region = Annotated[str, typer.Option("--region", help="This machine stands here; use your own words.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="The model is in float32, bfloat16 or float16.",
        show_default="what suits the checkpoint and the machines",
    ),
]
WeightBits = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Hold the large matrices in int4, int8 or fp8; they are made so while they are loaded.",
        show_default="as the checkpoint has them",
    ),
]
CacheBits = Annotated[
    str | None,
    typer.Option("--cache", help="Hold KV pages in int8 or int4.", show_default="in the model's dtype"),
]
ComputeDevice = Annotated[str, typer.Option("--device", help="Compute on cpu, cuda or mps; auto takes the fastest.")]
ScenarioName = Annotated[
    str | None,
    typer.Option(
        "--scenario", help="Slow down and cut links as this scenario says: one of Muster's by name, or a TOML file."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="MUSTER_DATA_DIR",
        help="The folder that keeps identity, state and tokens.",
        show_default="~/.local/share/muster",
    ),
]


def parse_bytes(text: str) -> int:
    """`64MB`, `1.5 GiB`, `2g`, `500000`: decimal units unless there is an i, as on a memory module's label."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] not in UNITS:
        raise InvalidRequest(f"{text!r} is not a size; write one like 64MB, 1.5GiB or 500000.", "memory")
    if text.strip().isdigit() and 0 < int(text) < _LEAST_BARE:
        raise InvalidRequest(f"{text.strip()} alone means bytes, which is no memory; write {text.strip()}GB.", "memory")
    size = int(float(match[1]) * UNITS[match[2]])
    if size <= 0:
        raise InvalidRequest(f"{text!r} is no memory at all; give a size above zero or leave the option out.", "memory")
    return size


def parse_seconds(text: str, option: str) -> float:
    """`90s`, `30min`, `12h`, `7d`; a unit must be given."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*", text.lower())
    if not match:
        raise InvalidRequest(f"{text!r} is no length of time; write one like 30min, 12h or 7d.", option)
    return float(match[1]) * SECONDS[match[2]]


def format_age(seconds: float) -> str:
    """In the largest unit that it has at least two of: `90 s`, `3 h`, `12 d`."""
    for unit in ("d", "h", "min"):
        if seconds >= 2 * SECONDS[unit]:
            return f"{seconds / SECONDS[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_bytes(size: float) -> str:
    """At most four digits and a decimal unit: `64 MB`, `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
