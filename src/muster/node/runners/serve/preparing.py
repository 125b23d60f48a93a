"""The thread of the last stage in which grammars are compiled beside the steps. Knows nothing of what they mean.

A large one takes seconds. The library lets go of the interpreter meanwhile, and the system gives this thread what the
steps leave of the processor, and a little more.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from muster.serve.constrain import Constraints
from muster.wire.messages.generate import Prepare, Prepared

PRIORITY = 14
"""Of Linux: 4 % of a processor that the steps want whole. At the lowest, 1.5 %, a large grammar would wait minutes."""


class Preparing:
    def __init__(self, epoch: int, constraints: Constraints) -> None:
        self._epoch, self._constraints = epoch, constraints
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"grammars-{epoch}", initializer=_give_way)

    def begin(self, message: Prepare, answer: Callable[[Prepared], None]) -> None:
        """Returns at once; `answer` is called in the event loop. Raises `ProtocolViolation` for too much at once."""
        self._constraints.reserve(message.number, message.grammar)
        compiling = asyncio.wrap_future(self._thread.submit(self._constraints.prepare, message.number, message.grammar))

        def done(future: "asyncio.Future[str]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            problem = (
                future.result() if error is None else f"The grammar of the output broke its compiler ({error!r:.200})."
            )
            answer(Prepared(epoch=self._epoch, number=message.number, problem=problem))

        compiling.add_done_callback(done)

    def close(self) -> None:
        """What is being compiled is thrown away when it is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._constraints.close()


def _give_way() -> None:
    with suppress(OSError, AttributeError):  # where the system knows no priorities of threads, it is fair
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
