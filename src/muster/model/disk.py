"""Where Muster keeps what it can compute again. Knows nothing of what is kept."""

import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from blake3 import blake3

from muster import __version__


def cache_directory() -> Path:
    """`MUSTER_CACHE`, or `muster` in the user's cache directory. Not created here."""
    chosen = os.environ.get("MUSTER_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster"


def write_if_possible(path: Path, data: bytes) -> None:
    """Replace `path` in one step. A cache that cannot be written costs time later, nothing else."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()


@cache
def version_of_checks() -> str:
    """Of all that takes part in judging a model: a new release, or a change in this folder, asks again.

    The releases are looked up, not imported: that would take seconds.
    """
    digest = blake3()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return f"{__version__} {version('transformers')} {version('torch')} {digest.hexdigest()}"
