"""Where a head keeps its files, and how another command on the same machine finds that head. Knows nothing of HTTP.

<data dir>/identity.key     Ed25519 key of this machine
           muster.db        state of the pool (SQLite)
           admin.token      lets `muster status`, `nodes` and `doctor` in; mode 0600
           link.port        UDP port at which machines reached the head last time
           head.json        address and ticket of the head that runs now
           cache/           weights by digest
"""

import json
import os
import secrets
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from muster.errors import MachineTrouble

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """What a running head leaves for the other verbs."""

    url: str
    model: str
    ticket: str
    pid: int


def data_dir(chosen: Path | None = None) -> Path:
    """The folder, made if it is missing; only its owner may look inside. One where strangers may write is refused."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = chosen or Path(os.environ.get("MUSTER_DATA_DIR") or f"{base}/muster")
    folder = folder.expanduser()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MachineTrouble(
            f"Cannot make {folder}: {error.strerror}; choose another place with --data-dir."
        ) from error
    if os.name == "posix" and folder.stat().st_mode & stat.S_IWOTH:
        raise MachineTrouble(
            f"Everybody on this machine may write to {folder}, even a forged key or token; run `chmod 700 {folder}`, "
            "or choose another place with --data-dir."
        )
    return folder


def database_url(folder: Path) -> str:
    """`MUSTER_DATABASE` (PostgreSQL for a large pool) or SQLite in the data directory."""
    return os.environ.get("MUSTER_DATABASE") or f"sqlite:///{folder / 'muster.db'}"


def admin_token(folder: Path) -> str:
    """The token of this data directory, made on first use."""
    path = folder / "admin.token"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_token(path)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token


def last_link_port(folder: Path) -> int:
    """0 where there was none yet, or nobody can read it."""
    try:
        port = int((folder / "link.port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port < 65536 else 0


def remember_link_port(folder: Path, port: int) -> None:
    (folder / "link.port").write_text(f"{port}\n", encoding="ascii")


def read_token(path: Path) -> str:
    """Raises `MachineTrouble` if others may know it."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MachineTrouble(f"Others may read the admin token in {path}; delete it, and the head makes a new one.")
    return path.read_text(encoding="ascii").strip()


def write_head(folder: Path, record: HeadRecord) -> None:
    # The ticket in it is a secret, so the file is new and private from the start, whatever was in its place.
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix="head.json")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
    os.replace(temporary, folder / "head.json")


def read_head(folder: Path) -> HeadRecord | None:
    """None when no head has run here, or the file is not ours to understand."""
    try:
        return HeadRecord(**json.loads((folder / "head.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def forget_head(folder: Path) -> None:
    (folder / "head.json").unlink(missing_ok=True)
