"""A clock that jumps, for tests of links that are only shaped: exact times, and none of it spent."""

import asyncio
import selectors
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        # Sockets are never waited for: these tests have none, beyond the loop's own wake-up pipe.
        if timeout is None:
            raise AssertionError("everything waits and no timer is set: the test hangs")
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of waiting for it: exact times, and no time spent."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s
