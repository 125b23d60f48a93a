"""A process of our own for what a stranger's files ask for: one call at a time, each within its limits.

The process that breaks a limit is gone, its call fails with `Broken`, and the next call finds a new one. It is started
once, not for each call, and ends with this one. Knows nothing of what the calls are about.
"""

import contextlib
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Literal

import msgspec

from muster.text.calls import Call, Failed, Limit, Reply
from muster.text.pipe import read_frame, write_frame

_SETTINGS = {"TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "1"}
"""One thread and one heap: what is idle should be small."""


class Broken(Exception):
    """The process is gone, and what was asked of it is to blame."""

    def __init__(self, how: Literal["time", "memory", "crash"], limit: Limit) -> None:
        super().__init__(how)
        self.words = {
            "time": f"takes more than {limit.cpu_s:g} s of computing",
            "memory": f"takes more than {limit.memory_bytes / 2**20:.0f} MiB of memory",
            "crash": "crashes the process that computes it",
        }[how]


class Confined:
    """Runs `python -m module` with `file` open, and greets each new process with `greeting`."""

    def __init__(self, module: str, file: BinaryIO, greeting: Call | None = None, *arguments: str) -> None:
        self._file, self._greeting = file, greeting
        # -P: a file in the current folder must not pass for a module.
        self._command = [sys.executable, "-P", "-m", module, str(file.fileno()), *arguments]
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=module.rpartition(".")[2])
        """Calls are made from there, one after the other; who waits, waits there."""
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def close(self) -> None:
        """End the process, also in the middle of a call. What still waits is cancelled."""
        self.thread.shutdown(wait=False, cancel_futures=True)
        self._end()

    def call(self, call: Call) -> Reply:
        """The reply, which may be `Failed`. Raises `Broken`. One call at a time."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(_GoneIdle):
                return self._exchange(self._process, call)
        process = self._start()
        if self._greeting is not None:
            greeted = self._exchange(process, self._greeting)
            if isinstance(greeted, Failed):
                return greeted
        return self._exchange(process, call)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._end()
        process = subprocess.Popen(
            self._command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _SETTINGS,
            pass_fds=[self._file.fileno()],
        )
        self._process, self._end = process, weakref.finalize(self, _end, process)
        return process

    def _exchange(self, process: "subprocess.Popen[bytes]", call: Call) -> Reply:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_frame(process.stdin.fileno(), msgspec.msgpack.encode(call))
            # Far above the call's own limit: only a process that was stopped from outside takes as long.
            data = read_frame(process.stdout.fileno(), within_s=60 + 10 * call.limit.cpu_s)
            reply: Reply = msgspec.msgpack.decode(data, type=Reply)
            return reply
        except (OSError, EOFError, ValueError) as error:
            raise self._what_happened(process, call.limit) from error

    def _what_happened(self, process: "subprocess.Popen[bytes]", limit: Limit) -> Exception:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        code = process.returncode
        self._end()
        if code == 0:
            return _GoneIdle()
        if code == -signal.SIGPROF:
            return Broken("time", limit)
        return Broken("memory" if code == -signal.SIGABRT else "crash", limit)


class _GoneIdle(Exception):
    """The process had ended by itself before the call reached it."""


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
