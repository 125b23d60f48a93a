"""Work that may take a while: a bar on stderr where somebody watches, and Ctrl-C that keeps the best so far.

Knows nothing of the work.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from muster.cli.show import err, progress


@contextmanager
def patiently(task: str, as_json: bool) -> Iterator[Callable[[], bool]]:
    """Hands out `out_of_time`, which is True from the first Ctrl-C on; a second one ends the program."""
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        if sys.stderr.isatty():
            err.print("[dim]ending with the best so far; Ctrl-C once more gives up[/dim]")

    with _on_interrupt(press), progress(as_json) as bars:
        bars.add_task(task, total=None)
        yield pressed.is_set


@contextmanager
def _on_interrupt(press: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change what a signal does
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
