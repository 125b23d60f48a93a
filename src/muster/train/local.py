"""All places of a run in one process: the twin of stages on several machines. Messages go from hand to hand.

Where the run packs what goes between stages, they are packed and unpacked here too, so that it learns what it would
learn on several machines.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from muster.errors import OutOfStep
from muster.model.trainable import TrainableStage, build_trainable
from muster.model.weights import Weights
from muster.spec.training import BatchTable, TrainingRun
from muster.train.corpus import deal
from muster.train.instructions import LetterLabel, Place, Receive, SendLetter, Tensors, Work
from muster.train.links import Parcels, StageLinks
from muster.train.score import Score
from muster.train.step import RunLayout, StageTrainer, StepReport

_Result = TypeVar("_Result")
Dealt = Sequence[Sequence[Tensor]]
"""Of each pipeline, its microbatches: token ids [B, T + 1]."""
TextsOf = Callable[[int], Tensor]
"""Step, counted from 0 -> its token ids [sequences, length + 1]."""


def cuts(layers: int, stages: int) -> list[tuple[int, int]]:
    """Layers [first, last) of each stage, as even as they can be."""
    bounds = [layers * stage // stages for stage in range(stages + 1)]
    return list(pairwise(bounds))


def build_places(
    weights: Weights,
    run: TrainingRun,
    layers: int,
    layout: RunLayout,
    devices: Sequence[torch.device],
    adapt: Callable[[TrainableStage], None] = lambda stage: None,
) -> dict[Place, StageTrainer]:
    """The j-th stages are on the j-th device, round and round; `adapt` may change each before it trains.

    Raises as `build_trainable` does.
    """
    dtype = torch.bfloat16 if run.precision == "bfloat16" else torch.float32
    ranges = cuts(layers, layout.stages)
    found = {}
    for place in layout.places:
        device = devices[place.stage % len(devices)]
        stage = build_trainable(weights, *ranges[place.stage], dtype, device, run.batch.recompute)
        adapt(stage)
        found[place] = StageTrainer(stage, place, layout, run)
    return found


class TrainingPipelines(Protocol):
    """What a run asks of its places, wherever they are."""

    @property
    def trainers(self) -> Mapping[Place, StageTrainer]:
        """Those that are in this process."""

    def train(self, step: int, texts_of: TextsOf, batch: BatchTable) -> StepReport:
        """The next step; it is `step`, counted from 0, unless places were lost and had to go back.

        Raises `TrainingDiverged`, with all weights as they were.
        """

    def judge(self, texts: Tensor, batch: BatchTable) -> Score:
        """How well held-out texts are predicted, token ids [texts, length + 1]."""

    def tensors(self) -> Tensors:
        """Of the whole model, by name."""

    def optimizer_state(self) -> Tensors: ...


class LocalPipelines:
    """Implements `TrainingPipelines`."""

    def __init__(self, trainers: Mapping[Place, StageTrainer], links: Mapping[Place, StageLinks] | None = None) -> None:
        """Without `links`, tensors are handed over as they are."""
        self.trainers, self.links = dict(trainers), links

    def train(self, step: int, texts_of: TextsOf, batch: BatchTable) -> StepReport:
        dealt = deal(texts_of(step), batch.microbatch, self._count)
        return self.step(step, dealt, batch.sequences * batch.length)

    def judge(self, texts: Tensor, batch: BatchTable) -> Score:
        return self.score(deal(texts, batch.microbatch, self._count))

    @property
    def _count(self) -> int:
        return 1 + max(place.pipeline for place in self.trainers)

    def step(self, number: int, dealt: Dealt, total_tokens: int) -> StepReport:
        """Raises `TrainingDiverged`, with all weights as they were."""
        works = {
            place: trainer.step(number, dealt[place.pipeline], total_tokens) for place, trainer in self.trainers.items()
        }
        return carry_out(works, self.links)[Place(0, 0)]

    def score(self, dealt: Dealt) -> Score:
        works = {place: trainer.score(dealt[place.pipeline]) for place, trainer in self.trainers.items()}
        return carry_out(works, self.links)[Place(0, 0)]

    def tensors(self) -> dict[str, Tensor]:
        """Of the whole model, by name."""
        return {
            name: tensor
            for place, trainer in self.trainers.items()
            if place.pipeline == 0
            for name, tensor in trainer.stage.tensors().items()
        }

    def optimizer_state(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for place, trainer in self.trainers.items()
            if place.pipeline == 0
            for name, tensor in {**trainer.optimizer.state(), **trainer.exchange.state()}.items()
        }

    def restore_optimizer(self, state: Tensors) -> None:
        for trainer in self.trainers.values():
            trainer.optimizer.restore(state)
            trainer.exchange.restore(state)


def carry_out(
    works: Mapping[Place, Work[_Result]], links: Mapping[Place, StageLinks] | None = None
) -> dict[Place, _Result]:
    """Let all work go on until it is done, each as far as what it waits for has come. Raises what any of it raises."""
    hands = Hands(links)
    actors = {place: _Actor(place, work) for place, work in works.items()}
    while any(not actor.done for actor in actors.values()):
        moves = [actor.go_on(hands) for actor in actors.values() if not actor.done]
        assert any(moves), "all places wait for each other"
    return {place: actor.results[0] for place, actor in actors.items()}


class Hands:
    """What was sent and is not yet taken."""

    def __init__(self, links: Mapping[Place, StageLinks] | None) -> None:
        self._links = links
        self._letters: dict[tuple[Place, Place, LetterLabel], Tensors | Parcels] = {}

    def give(self, source: Place, send: SendLetter) -> None:
        packed = send.tensors if self._links is None else self._links[source].pack(send)
        self._letters[source, send.to, send.label] = packed

    def has(self, here: Place, receive: Receive) -> bool:
        return (receive.source, here, receive.label) in self._letters

    def take(self, here: Place, receive: Receive) -> Tensors:
        came: Any = self._letters.pop((receive.source, here, receive.label))
        if self._links is None:
            return came  # type: ignore[no-any-return]
        try:
            return self._links[here].unpack(receive, came)
        except OutOfStep:
            return self._links[here].unpack(receive, self._links[receive.source].resend(receive))


class _Actor(Generic[_Result]):
    def __init__(self, place: Place, work: Work[_Result]) -> None:
        self._place, self._work = place, work
        self._waits_for: Receive | None = None
        self.results: list[_Result] = []

    @property
    def done(self) -> bool:
        return bool(self.results)

    def go_on(self, hands: Hands) -> bool:
        """Whether it got any further."""
        if self._waits_for is not None and not hands.has(self._place, self._waits_for):
            return False
        try:
            waited = self._waits_for
            instruction = next(self._work) if waited is None else self._work.send(hands.take(self._place, waited))
            while isinstance(instruction, SendLetter):
                hands.give(self._place, instruction)
                instruction = next(self._work)
            self._waits_for = instruction
        except StopIteration as ended:
            self.results.append(ended.value)
        return True
