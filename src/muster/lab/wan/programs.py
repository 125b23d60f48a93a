"""The programs that run in a namespace: found, stopped, killed, started again. Knows no lab and no network.

Found by `/proc`, not by who started them: what forks and detaches itself belongs to the host all the same.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

MAX_KILL_ROUNDS = 100
"""Between two looks a program may fork; one that still does after so many is given up."""
MAX_REMEMBERED = 64


class Program(msgspec.Struct, frozen=True):
    """What it takes to start a program again as it was started."""

    words: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    output: str
    errors: str
    """Files that its stdout and stderr are added to; `/dev/null` where they were none."""


def processes(inode: int) -> list[int]:
    """Ids of all that run in the namespace."""
    return [pid for pid in _all_processes() if _namespace_of(pid) == inode]


def marked_processes(mark: str, value: str) -> list[int]:
    """Ids of all whose environment began with `mark=value`: what is left when nothing else tells a lab's programs."""
    wanted = f"{mark}={value}"
    return [pid for pid in _all_processes() if wanted in _words(pid, "environ")]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_all(find: Callable[[], list[int]]) -> int:
    """Kill all that `find` finds until it finds none; how many there were."""
    killed: set[int] = set()
    for _ in range(MAX_KILL_ROUNDS):
        if not (found := find()):
            break
        send(found, signal.SIGKILL)
        killed |= set(found)
        time.sleep(0.02)
    return len(killed)


def remember(inode: int) -> list[Program]:
    """The programs that were started from outside of the namespace; those that they started come with them."""
    inside = set(processes(inode))
    first = [pid for pid in sorted(inside) if _parent_of(pid) not in inside]
    return [program for pid in first[:MAX_REMEMBERED] if (program := _program(pid)) is not None]


def start(program: Program, before: Callable[[], None]) -> subprocess.Popen[bytes]:
    """Start it again, in a session of its own; `before` runs in the child."""
    with open(program.output, "ab") as output, open(program.errors, "ab") as errors:
        return subprocess.Popen(
            program.words,
            cwd=program.folder,
            env=program.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            preexec_fn=before,
        )


def started_at(pid: int) -> str:
    """What tells a process from a later one with the same id; nothing if it is gone."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in ("Z", "X") else ""


def _all_processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _namespace_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:  # gone, or a corpse that nobody has buried
        return -1


def _parent_of(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """What `/proc/PID/stat` says after the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _words(pid: int, file: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _program(pid: int) -> Program | None:
    try:
        folder = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None
    environment = dict(word.split("=", 1) for word in _words(pid, "environ") if "=" in word)
    words = tuple(_words(pid, "cmdline"))
    return Program(words, folder, environment, _file_of(pid, 1), _file_of(pid, 2)) if words[0] else None


def _file_of(pid: int, descriptor: int) -> str:
    try:
        target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return os.devnull
    return target if os.path.isfile(target) else os.devnull
