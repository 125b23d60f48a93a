"""Files of a model's folder, opened so that none of them leads elsewhere. Knows nothing of what they hold.

A folder may come from a stranger, and what is in it goes to every machine that joins. So a link must not lead out of
it, what is opened must be an ordinary file (opening a pipe waits for ever), and what is read at once has a limit.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from muster.errors import WeightsInvalid

MAX_TEXT_BYTES = 2**28
"""Of a file that is read as a whole; the largest published tokenizers have an eighth of it."""
READ_WHOLE = ("*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt")
"""What `transformers` may read of a folder besides the weights."""


def open_inside(folder: Path, name: str) -> BinaryIO:
    """Open the ordinary file that `folder` has under a plain `name`.

    Raises `WeightsInvalid`: it is missing or unreadable, leads out of the folder, or is a pipe, a device or a folder.
    """
    path = folder / name
    try:
        real = Path(os.path.realpath(path, strict=True))
        if not _belongs(real, Path(os.path.realpath(folder))):
            raise WeightsInvalid(
                f"{path} leads out of the model's folder, and what is in that folder is given to other machines; "
                "put a copy of the file there."
            )
        # Not blocking: to open a pipe would wait for whoever writes into it.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except ValueError as error:  # a name with a zero byte or half a character
        raise _unreadable(path, "it is not the name of a file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unreadable(path, "it is not an ordinary file")
    return os.fdopen(descriptor, "rb")


def read_inside(folder: Path, name: str, most_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """All bytes of a file. Raises `WeightsInvalid` as `open_inside` does, and when it has more than `most_bytes`."""
    with open_inside(folder, name) as file:
        data = file.read(most_bytes + 1)
    _check_size(folder / name, len(data), most_bytes)
    return data


def check_folder(folder: Path) -> None:
    """Raise `WeightsInvalid` if one of the files that a tokenizer is read from is not an ordinary file of the folder.

    `transformers` opens them itself, and would wait for a pipe, follow a link, or read a file that has no end.
    """
    for path in sorted({path for pattern in READ_WHOLE for path in folder.glob(pattern)}):
        if path.exists():
            with open_inside(folder, path.name) as file:
                _check_size(path, os.fstat(file.fileno()).st_size, MAX_TEXT_BYTES)


def _check_size(path: Path, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise WeightsInvalid(
            f"{path} has more than {most_bytes // 2**20} MiB, which no model needs; download the model again."
        )


def _belongs(real: Path, folder: Path) -> bool:
    """Whether a file lies in the folder, or where the hub's cache keeps it: snapshots/COMMIT/x leads to blobs/x."""
    cached = folder.parent.name == "snapshots" and real.parent == folder.parent.parent / "blobs"
    return cached or folder in real.parents


def _unreadable(path: Path, reason: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"{path} cannot be read ({reason}); a model's folder holds config.json and *.safetensors that you may read."
    )
