"""How well texts are predicted that no step has seen. Changes no weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from muster.model.trainable import TrainableStage
from muster.train.exchange import tell_all
from muster.train.instructions import Place, Work
from muster.train.passes import Passes


@dataclass(frozen=True, slots=True)
class Score:
    tokens: int
    loss: float
    """Nats per token."""


def score(stage: TrainableStage, place: Place, texts: Sequence[Tensor], places: Sequence[Place]) -> Work[Score]:
    """`texts` are this pipeline's, [B, T + 1] each; the mean is over all pipelines' texts."""
    scores = yield from scores_of_all(stage, place, texts, places)
    count = sum(one.tokens for one in scores)
    return Score(count, sum(one.tokens * one.loss for one in scores) / max(1, count))


def scores_of_all(
    stage: TrainableStage, place: Place, texts: Sequence[Tensor], places: Sequence[Place], which: int = 0
) -> Work[list[Score]]:
    """Of each pipeline, on its own texts and by its own weights. The same at every place. `which` as in `tell_all`."""
    tokens = sum(text[:, 1:].numel() for text in texts) if stage.is_last else 0
    total = 0.0
    passes = Passes(stage, place, texts, total_tokens=1)
    for microbatch in range(len(texts)):
        loss = yield from passes.forward(microbatch, keeps=False)
        total += float(loss.detach()) if stage.is_last else 0.0
    told = yield from tell_all((tokens, total), place, places, which)
    sums: dict[int, tuple[float, float]] = {}
    for (count, part), teller in zip(told, places, strict=True):
        counted, summed = sums.get(teller.pipeline, (0.0, 0.0))
        sums[teller.pipeline] = counted + count, summed + part
    return [Score(int(count), part / max(1, count)) for _, (count, part) in sorted(sums.items())]
