"""A PostgreSQL server of our own for the store's tests, on a Unix socket in a temporary folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path


def find_postgres() -> Path | None:
    """The folder with `initdb` and `pg_ctl`."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(folders[-1]).parent if folders else None


def _as_ordinary_user() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise OSError("there is no ordinary user to run PostgreSQL as")


@contextmanager
def postgres(binaries: Path) -> Iterator[str]:
    """The URL of a fresh server, stopped and removed afterwards."""
    who = _as_ordinary_user()
    folder = Path(tempfile.mkdtemp(prefix="muster-pg-", dir="/tmp"))  # a short path: socket names are limited
    if who:
        os.chown(folder, who["user"], who["group"])
    data, environment = folder / "data", {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, env=environment, timeout=60, stdout=subprocess.DEVNULL, **who)

    run(str(binaries / "initdb"), "-D", str(data), "-U", "muster", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://muster@/postgres?host={folder}"
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
