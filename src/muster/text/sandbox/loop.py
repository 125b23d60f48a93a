"""Calls come in, replies go out, each call within its limits. Knows nothing of what the calls are about.

Time: the system ends this process when a call has used its share of the processor, whatever it is in the middle of.
Memory: an allocation beyond the limit fails. An exception, or a panic below Python, becomes a reply.
"""

import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from muster.text.calls import Call, Failed, Limit, Reply, Work
from muster.text.pipe import read_frame, write_frame

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Refusal(Exception):
    """A call that ends in a `Failed` of its own."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.reason)
        self.failed = failed


def serve(handle: Callable[[Work], Reply], idle_s: float | None = None) -> None:
    """Until the caller is gone, or nothing was asked for `idle_s`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the caller decides what ends
    replies = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)  # whatever prints must not speak for us
    poll = select.poll()
    poll.register(_STDIN, select.POLLIN)
    while poll.poll(None if idle_s is None else idle_s * 1000):
        try:
            call = msgspec.msgpack.decode(read_frame(_STDIN), type=Call)
        except EOFError:
            return
        write_frame(replies, _answer(handle, call))


def _answer(handle: Callable[[Work], Reply], call: Call) -> bytes:
    try:
        with _within(call.limit):
            return msgspec.msgpack.encode(handle(call.work))
    except Refusal as refusal:
        return msgspec.msgpack.encode(refusal.failed)
    except MemoryError:
        reason = f"takes more than {call.limit.memory_bytes / 2**20:.0f} MiB of memory"
        return msgspec.msgpack.encode(Failed("memory", reason))
    except BaseException as error:  # a panic in Rust is no `Exception`
        return msgspec.msgpack.encode(Failed("fault", in_a_line(error)))


def in_a_line(error: BaseException) -> str:
    """The first line of what it says."""
    lines = str(error).encode(errors="replace").decode().strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def _within(limit: Limit) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = _held_bytes()
    if held is not None:
        wanted = held + limit.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, limit.cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _held_bytes() -> int | None:
    """What counts towards the limit now; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None
