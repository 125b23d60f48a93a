"""What a wait is for: a spinner where somebody watches, lines on stderr elsewhere. Knows nothing of the work.

A wait that is over at once says nothing. With `--json` nothing is said: programs read the result.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from muster.cli.output import err, plain

WATCHED_S, UNWATCHED_S = 0.2, 1.0
"""What takes no longer needs no words; a line stays on the page, so it is said later than a spinner is shown."""
Say = Callable[[str], None]
"""Tells what the wait is for from now on."""


@contextmanager
def waiting(what: str, as_json: bool = False) -> Iterator[Say]:
    """`what` and all that is said on the way are lower-case phrases, such as `loading PyTorch`."""
    if as_json:
        yield lambda words: None
        return
    wait = _Wait(what)
    try:
        yield wait.say
    finally:
        wait.end()


class _Wait:
    def __init__(self, what: str) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._watched = sys.stderr.isatty()
        # Else what is printed meanwhile would come out on stderr, though stdout may be a file.
        same = sys.stdout.isatty()
        self._bars = Progress(*columns, console=err, transient=True, disable=not self._watched, redirect_stdout=same)
        self._bar = self._bars.add_task("", total=None)
        self._lock = threading.Lock()
        self._ended = False
        self._timer: threading.Timer | None = None
        self.say(what)

    def say(self, words: str) -> None:
        with self._lock:
            self._words = words
            self._bars.update(self._bar, description=words)
            if self._timer is None or not self._watched:
                self._wait_a_moment()

    def _wait_a_moment(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(WATCHED_S if self._watched else UNWATCHED_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _show(self) -> None:
        with self._lock:
            if self._ended or threading.current_thread() is not self._timer:
                return
            if self._watched:
                self._bars.start()
            else:
                err.print(plain(f"{self._words} …"), soft_wrap=True)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._bars.stop()
