"""Work that may take a while: what it is about is said on stderr, and Ctrl-C keeps the best so far.

Knows nothing of the work.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from muster.cli.output import err
from muster.cli.waiting import waiting


class Interrupt:
    """True when called, from the first Ctrl-C on: what planners take as `out_of_time`."""

    def __init__(self, say: Callable[[str], None], answer: str = "ending with the best so far") -> None:
        self.say = say
        """Tells the watcher what is being done now."""
        self._answer = answer
        self._pressed = threading.Event()

    def __call__(self) -> bool:
        return self._pressed.is_set()

    def press(self, number: int, frame: FrameType | None) -> None:
        """As a signal handler; the second Ctrl-C ends the program."""
        if self._pressed.is_set():
            raise KeyboardInterrupt
        self._pressed.set()
        if sys.stderr.isatty():
            err.print(f"[dim]{self._answer}; Ctrl-C once more gives up[/dim]")


@contextmanager
def interruptible(task: str, as_json: bool) -> Iterator[Interrupt]:
    """A wait for `task`; Ctrl-C goes to the `Interrupt` that is handed out."""
    with waiting(task, as_json) as say:
        interrupt = Interrupt(say)
        with on_interrupt(interrupt.press):
            yield interrupt


@contextmanager
def on_interrupt(press: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C calls `press` inside."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change what a signal does
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
