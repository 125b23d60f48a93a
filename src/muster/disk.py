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
def version_of(package: str, *libraries: str) -> str:
    """Of all that finds something out: a new release, or a change in the folder of `package`, asks again.

    The releases are looked up, not imported: that would take seconds.
    """
    digest = blake3()
    for file in sorted(Path(__file__).parent.joinpath(package).rglob("*.py")):
        digest.update(file.read_bytes())
    return " ".join([__version__, *map(version, libraries), digest.hexdigest()])
