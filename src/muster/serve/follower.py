"""A later stage of the ring: it runs the steps that the head decided; the last one also samples.

Steps come in any order, and perhaps twice; each runs once, when all that it names has (`order.py`). Everything here
comes from another machine, so `accept` sees it before the cache does. Knows nothing of requests, queues or the page
budget.
"""

from collections.abc import Callable
from typing import Any, Generic

from torch import Tensor

from muster.serve.accept import (
    check_epoch,
    check_grammars,
    check_guesses,
    check_hidden,
    check_scored,
    check_slots,
    check_step,
)
from muster.serve.constrain import Constraints
from muster.serve.order import StepOrder
from muster.serve.run import run_step
from muster.serve.sampling import Sampler
from muster.serve.stage import CacheT, RunsLayers
from muster.wire.messages.generate import Step, StepDone


class Follower(Generic[CacheT]):
    """Layers of one epoch. A step that it refuses leaves it as it was; the pipeline is then beyond repair."""

    def __init__(
        self,
        stage: RunsLayers[CacheT],
        cache: CacheT,
        epoch: int,
        prefill_tokens: int = 512,
        constraints: Constraints | None = None,
    ) -> None:
        """`prefill_tokens` as in `EngineOptions`: this machine has set aside workspace for so many and no more.

        `constraints` are for the last stage.
        """
        self._stage = stage
        self._cache = cache
        self._epoch = epoch
        self._prefill_tokens = prefill_tokens
        self._sampler = Sampler(constraints)
        self.constraints = constraints
        self._order: StepOrder[tuple[Step, Any]] = StepOrder()

    def add(self, step: Step, hidden: Any) -> bool:
        """A step came, with its hidden state in whatever form; False if it had come before.

        Raises `ProtocolViolation` for a step of another epoch, or one that cannot be.
        """
        check_epoch(self._epoch, step)
        return self._order.add(step.sequence, step.after, (step, hidden))

    def knows(self, number: int) -> bool:
        """Whether the step of this number has run, or was taken."""
        return self._order.has_run(number)

    def take(self, is_ready: Callable[[Step], bool] = lambda step: True) -> tuple[Step, Any] | None:
        """The next step that may run now, with what came with it. It must be run before another is taken."""
        return self._order.take(lambda item: is_ready(item[0]))

    def coming(self) -> Step | None:
        """The step that is likely to be taken next, if it is here; nobody has checked it."""
        due = self._order.peek()
        return None if due is None else due[0]

    def run(self, step: Step, hidden_TH: Tensor, coming: Step | None = None) -> tuple[Step, Tensor] | StepDone:
        """Run a step that was taken: back comes it with the new hidden state for the next stage, or what was sampled.

        The pages of the step that is `coming` may be brought in meanwhile. Raises `ProtocolViolation` for a step that
        does not fit this stage.
        """
        self._accept(step, hidden_TH)
        if coming is not None:
            self._cache.expect(coming.rows, coming.copies)
        result = run_step(self._stage, self._cache, self._sampler, step, hidden_TH)
        return result if isinstance(result, StepDone) else (step, result)

    def _accept(self, step: Step, hidden_TH: Tensor) -> None:
        check_epoch(self._epoch, step)
        check_step(step, self._cache, self._prefill_tokens)
        check_hidden(step, hidden_TH, self._stage.hidden_size, self._stage.dtype)
        if self._stage.is_last:
            capacity = self._cache.num_pages * self._cache.page_size
            check_slots(step, self._sampler.slots(), self._stage.vocab_size, capacity)
            check_guesses(step, self._stage.vocab_size)
            check_grammars(step, self._sampler.grammars())
            check_scored(step, self._sampler.prompts())
