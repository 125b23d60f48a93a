"""Where Muster keeps what it can compute again. Knows nothing of what is kept."""

import os
from contextlib import suppress
from pathlib import Path


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
