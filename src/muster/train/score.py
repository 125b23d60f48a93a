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
    tokens = sum(text[:, 1:].numel() for text in texts) if stage.is_last else 0
    total = 0.0
    passes = Passes(stage, place, texts, total_tokens=1)
    for microbatch in range(len(texts)):
        loss = yield from passes.forward(microbatch, keeps=False)
        total += float(loss.detach()) if stage.is_last else 0.0
    told = yield from tell_all((tokens, total), place, places)
    count, sum_of_losses = (sum(figures[index] for figures in told) for index in (0, 1))
    return Score(int(count), sum_of_losses / max(1, count))
