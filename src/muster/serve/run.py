"""One step through the layers of a stage, and what the last stage makes of its logits: scores and tokens.

Knows nothing of requests, queues or the page budget.
"""

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from muster.serve.batch import make_batch
from muster.serve.sampling import Sampler
from muster.serve.scoring import Scoring
from muster.serve.stage import CacheT, RunsLayers
from muster.spec.request import Sampled
from muster.spec.scores import PromptScores
from muster.wire.messages.generate import Row, Step, StepDone


def run_step(stage: RunsLayers[CacheT], cache: CacheT, sampler: Sampler, step: Step, x: Tensor) -> Tensor | StepDone:
    """The hidden state [T, H], or what the head of the ring gets to know where `stage` is the last."""
    places = cache.enter(step.rows, step.copies)
    batch = make_batch(step.rows, cache.page_size, stage.device, places)
    if not stage.is_last:
        return stage.run(batch, cache, x.to(stage.device), lambda logits_CV: None)
    for slot in step.release:
        sampler.release(slot)
    for admit in step.admit:
        sampler.admit(admit)
    for grammar in step.forget:
        sampler.forget(grammar)
    scoring = Scoring(step.rows, sampler.prompts())
    logits_SV = stage.run(batch, cache, x.to(stage.device), scoring.look)
    chosen = _Chosen(step)
    while chosen.is_open:
        wanted, slots = chosen.open_places(), chosen.open_slots()
        sampled = sampler.sample(logits_SV if len(wanted) == len(logits_SV) else logits_SV[wanted], slots)
        chosen.take(sampled, *sampler.ends(slots))
    return chosen.done(scoring.results())


class _Chosen:
    """The tokens of each sampled row, position after position: the next is worth choosing only where the guess before
    it was right. So the sampler never gets to know a token that is thrown away."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._rows = [row for row in step.rows if row.samples]
        guesses = iter(step.guesses)
        self._guesses = [next(guesses) if row.samples > 1 else () for row in self._rows]
        self._first_places = _starts(self._rows)
        self._sampled: list[list[Sampled]] = [[] for _ in self._rows]
        self._complete: set[int] = set()
        self._broken: dict[int, str] = {}
        self._open = list(range(len(self._rows)))

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def open_places(self) -> list[int]:
        """Of the logits that choose now, among all that there are."""
        return [self._first_places[row] + len(self._sampled[row]) for row in self._open]

    def open_slots(self) -> list[int]:
        return [self._rows[row].slot for row in self._open]

    def take(self, sampled: Sequence[Sampled], complete: Sequence[int], broken: Sequence[tuple[int, str]]) -> None:
        """What the open rows have chosen; `complete` and `broken` count among them."""
        self._complete.update(self._open[place] for place in complete)
        self._broken.update((self._open[place], why) for place, why in broken)
        still_open = []
        for row, one in zip(self._open, sampled, strict=True):
            mine, guesses = self._sampled[row], self._guesses[row]
            goes_on = len(mine) < len(guesses) and guesses[len(mine)] == one.token
            mine.append(one)
            if goes_on and row not in self._complete and row not in self._broken:
                still_open.append(row)
        self._open = still_open

    def done(self, scores: tuple[PromptScores, ...]) -> StepDone:
        counts = [len(mine) for mine in self._sampled]
        ends = list(accumulate(counts))
        return StepDone(
            epoch=self._step.epoch,
            sequence=self._step.sequence,
            sampled=tuple(one for mine in self._sampled for one in mine),
            scores=scores,
            accepted=tuple(counts) if any(self._guesses) else (),
            complete=tuple(ends[row] - 1 for row in sorted(self._complete)),
            broken=tuple((ends[row] - 1, why) for row, why in sorted(self._broken.items())),
        )


def _starts(rows: Sequence[Row]) -> list[int]:
    return list(accumulate((row.samples for row in rows), initial=0))
