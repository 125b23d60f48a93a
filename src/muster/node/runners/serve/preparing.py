"""The thread of the last stage in which grammars are compiled beside the steps. Knows nothing of what they mean.

A large one takes seconds, in most of which the library lets go of the interpreter. The rest is why this thread gives
way to nobody: where others keep the processor busy, whoever holds the interpreter, or a lock of the heap, at a low
priority stops the whole process for seconds, and the pool takes it for dead.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from muster.serve.constrain import Constraints
from muster.wire.messages.generate import Prepare, Prepared


class Preparing:
    def __init__(self, epoch: int, constraints: Constraints) -> None:
        self._epoch, self._constraints = epoch, constraints
        self._begun = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"grammars-{epoch}")

    def begin(self, message: Prepare, answer: Callable[[Prepared], None]) -> None:
        """Returns at once; `answer` is called in the event loop. Raises `ProtocolViolation` for too much at once.

        What comes again, since a link broke, is answered once.
        """
        if 0 < message.number <= self._begun:
            return
        self._begun = message.number
        for number in message.forget:
            self._constraints.forget(number)
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
