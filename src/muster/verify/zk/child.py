"""A prover in a process of its own, with a limit of memory and of time: what it says and took, or why there is nothing.

Knows no prover. What runs there prints one line of JSON last; provers abort, panic and fill memory, and only they end.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

MIB = 2**20
SHOWN = 300
"""Characters of what a process said last."""


@dataclass(frozen=True, slots=True)
class ChildLimits:
    memory_mb: int = 6_000
    """Of address space, in MiB."""
    seconds: float = 120.0
    by_resident: bool = False
    """Count what is resident instead: WebAssembly reserves tens of gigabytes of address space that it never uses."""


@dataclass(frozen=True, slots=True)
class ChildResult:
    """`said` is what the process printed last, as JSON."""

    said: dict[str, Any]
    seconds: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class WhyNot:
    """A sentence in place of figures."""

    reason: str


def run(
    command: Sequence[str], limits: ChildLimits, folder: Path, extra: Mapping[str, str] | None = None
) -> ChildResult | WhyNot:
    """Run `command` in `folder`. Whatever it starts ends with it."""
    started = time.monotonic()
    with TemporaryFile() as out, TemporaryFile() as err:
        process = subprocess.Popen(
            list(command), cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            env={**os.environ, **(extra or {})}, start_new_session=True,
            preexec_fn=lambda: _limit(limits),
        )  # fmt: skip
        peak_mb, code = _wait(process, started + limits.seconds, limits)
        seconds = time.monotonic() - started
        texts = [_text(one) for one in (out, err)]
    if code is None:
        return WhyNot(f"not done after {limits.seconds:.0f} s; {peak_mb:.0f} MB were in use")
    if code == 0:
        try:
            return ChildResult(json.loads(texts[0].strip().rsplit("\n", 1)[-1]), seconds, peak_mb)
        except (json.JSONDecodeError, IndexError):
            return WhyNot(f"said nothing that can be read: {_last(texts)}")
    if _is_memory(code, texts, peak_mb, limits):
        return WhyNot(f"needs more than the {limits.memory_mb} MB allowed; {peak_mb:.0f} MB were in use")
    return WhyNot(_last(texts) or f"ended with code {code}")


def python_of(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this Python."""
    return [sys.executable, "-m", module, *arguments]


def _limit(limits: ChildLimits) -> None:
    if limits.by_resident:
        return
    size = limits.memory_mb * MIB
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _wait(process: "subprocess.Popen[bytes]", until: float, limits: ChildLimits) -> tuple[float, int | None]:
    """Its peak of resident memory in MB, and its exit code, None where it was ended here.

    The kernel's own figure at the end (`ru_maxrss`) counts what this process had when it forked.
    """
    ended_here, peak_mb = False, 0.0
    try:
        while True:
            peak_mb = _resident_mb(process.pid) or peak_mb
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return peak_mb or usage.ru_maxrss / 1024, None if ended_here else process.returncode
            too_large = limits.by_resident and peak_mb > limits.memory_mb
            if (time.monotonic() > until or too_large) and not ended_here:
                ended_here = not too_large
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.005)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _resident_mb(pid: int) -> float:
    """The most that the process has had resident so far; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def _text(file: Any) -> str:
    file.seek(0)
    return bytes(file.read(MIB)).decode(errors="replace")


def _last(texts: list[str]) -> str:
    lines = [line.strip() for line in "\n".join(texts).splitlines() if line.strip()]
    return lines[-1][:SHOWN] if lines else ""


def _is_memory(code: int, texts: list[str], peak_mb: float, limits: ChildLimits) -> bool:
    said = "\n".join(texts).lower()
    words = (
        "memory allocation",
        "memoryerror",
        "out of memory",
        "cannot allocate memory",
        "bad_alloc",
        "allocation failed",
    )
    killed = code in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV)
    return any(word in said for word in words) or (killed and peak_mb > 0.8 * limits.memory_mb)
