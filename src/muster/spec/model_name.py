"""What a served model is called. Knows no file system."""

from pathlib import PurePosixPath


def model_name(written: str) -> str:
    """One name for a folder, however its path is spelled: `x` for `./x/`, `x//` and `x/.`. Other names stay."""
    return str(PurePosixPath(written)) if written else written
