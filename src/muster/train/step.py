"""One optimizer step of one place, as a sentence. Knows what it sends and waits for, not how that travels."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from torch import Tensor

from muster.errors import TrainingDiverged
from muster.model.trainable import TrainableStage
from muster.spec.training import TrainingRun
from muster.train.exchange import clipping_scale, squared_norm, tell_all
from muster.train.instructions import Place, Work
from muster.train.optimizer import Optimizer
from muster.train.passes import NONE_BAD, Passes, PassesOutcome
from muster.train.rates import learning_rate
from muster.train.replicas import make_exchange
from muster.train.score import Score, score, scores_of_all

RECENT = 16
"""Microbatches of its own by which a pipeline judges moves."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """The same at every place; of one pipeline alone, where each makes local steps."""

    step: int
    """How many are done now."""
    loss: float
    """Mean over the step's tokens, in nats, before the weights changed."""
    gradient_norm: float
    """Before it was clipped."""
    learning_rate: float
    rejected: tuple[int, ...] = ()
    """Replicas whose move all others refused."""


@dataclass(frozen=True, slots=True)
class RunLayout:
    """Who takes part: as many pipelines of as many stages, cut alike."""

    pipelines: int
    stages: int

    @property
    def places(self) -> list[Place]:
        return [Place(pipeline, stage) for pipeline in range(self.pipelines) for stage in range(self.stages)]


class StageTrainer:
    """One stage of one pipeline at work."""

    def __init__(self, stage: TrainableStage, place: Place, layout: RunLayout, run: TrainingRun) -> None:
        self.stage, self._place, self._layout, self._run = stage, place, layout, run
        self.parameters = stage.parameters()
        self._at_both_ends = stage.at_both_ends()
        # The last stage leaves what the first one holds, too, to that one, so that nothing is counted twice.
        elsewhere = self._at_both_ends if place.stage else frozenset()
        self.exchange = make_exchange(
            run.exchange, self.parameters, self._at_both_ends, place, layout.pipelines, layout.stages
        )
        counts = place.pipeline == 0 or self.exchange.local
        self._counted = frozenset(self.parameters) - elsewhere if counts else frozenset[str]()
        self.optimizer = Optimizer(self.parameters, run.optimizer)
        self._recent: deque[Tensor] = deque(maxlen=RECENT)

    def step(self, number: int, texts: Sequence[Tensor], total_tokens: int) -> Work[StepReport]:
        """Step `number`, counted from 0, on this pipeline's microbatches of token ids [B, T + 1].

        Raises `TrainingDiverged` at every place, with the weights as they were, if a loss or gradient is no number.
        """
        if self.exchange.local:
            total_tokens = sum(text[:, 1:].numel() for text in texts)
        passes = Passes(self.stage, self._place, texts, total_tokens)
        outcome = yield from passes.run(self._run.workload, self._layout.stages)
        yield from self.exchange.gradients()
        loss, squared = yield from self._agree(outcome, number)
        rate = learning_rate(self._run.optimizer, number, self._run.steps)
        self.optimizer.update(rate, clipping_scale(squared, self._run.optimizer.clip_norm))
        if self._run.exchange.judged:
            self._recent.extend(texts)
        rejected = yield from self.exchange.weights(number + 1, self._scores)
        return StepReport(number + 1, loss, sqrt(squared), rate, rejected)

    def _scores(self, which: int) -> Work[list[Score]]:
        return scores_of_all(self.stage, self._place, tuple(self._recent), self._layout.places, which)

    def score(self, texts: Sequence[Tensor]) -> Work[Score]:
        """How well held-out texts are predicted."""
        return score(self.stage, self._place, texts, self._layout.places)

    def _agree(self, outcome: PassesOutcome, number: int) -> Work[tuple[float, float]]:
        """The loss, and the squared norm of all gradients."""
        squared = squared_norm(self.parameters, self._counted)
        places = self._layout.places
        if self.exchange.local:
            places = [place for place in places if place.pipeline == self._place.pipeline]
        told = yield from tell_all((squared, outcome.loss, outcome.first_bad), self._place, places)
        squared, loss = (sum(figures[index] for figures in told) for index in (0, 1))
        if not isfinite(squared) or not isfinite(loss) or any(bad != NONE_BAD for _, _, bad in told):
            self.optimizer.forget()
            raise TrainingDiverged(_diagnosis(number, told, places))
        return loss, squared


def _diagnosis(number: int, told: Sequence[tuple[float, ...]], places: Sequence[Place]) -> str:
    forward = [(bad, place) for (_, _, bad), place in zip(told, places, strict=True) if bad != NONE_BAD]
    backward = [place for (squared, _, _), place in zip(told, places, strict=True) if not isfinite(squared)]
    if forward:
        # Microbatch by microbatch, the first stage with such an output is where it began.
        where = f"stage {min(forward)[1].stage + 1} first made it, on the way forward"
    else:
        where = f"stage {max(place.stage for place in backward) + 1} first made it, in its gradients"
    return (
        f"Step {number + 1} gave something that is not a number ({where}), so no weight was changed; lower the "
        "learning rate or warm up longer, and run again to go on from the last checkpoint."
    )
