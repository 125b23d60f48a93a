"""Who trains with whom: the places of one round, and the ways to them. Knows no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from muster.errors import ProtocolViolation
from muster.node.runners.base import Send
from muster.spec.pool import NodeId
from muster.spec.training import TrainingRun
from muster.train.instructions import Place
from muster.train.step import RunLayout
from muster.wire.messages.base import Address
from muster.wire.messages.train import BeginRound, TrainingPlace


@dataclass(slots=True)
class Round:
    """As one place sees it."""

    number: int
    here: Place
    layout: RunLayout
    run: TrainingRun
    places: Mapping[Place, TrainingPlace]
    sends: dict[NodeId, Send] = field(default_factory=dict)
    """To those that are reached."""

    @classmethod
    def of(cls, begin: BeginRound, stage: int) -> "Round":
        """Of an order that was checked. Raises `ProtocolViolation` where its run is none."""
        try:
            run = TrainingRun.model_validate_json(begin.run)
        except ValueError:
            raise ProtocolViolation("The head's training run cannot be read; update Muster on this node.") from None
        places = {Place(place.pipeline, place.stage): place for place in begin.places}
        last = begin.places[-1]
        layout = RunLayout(last.pipeline + 1, last.stage + 1)
        return cls(begin.round, Place(begin.pipeline, stage), layout, run, places)

    def node(self, place: Place) -> NodeId:
        return self.places[place].address.node

    def partners(self, ties_ends: bool) -> dict[NodeId, Address]:
        """Whom this place sends tensors: its neighbours, and who holds the same weights.

        `ties_ends`: first and last stages of all pipelines hold weights in common.
        """
        here, last = self.here, self.layout.stages - 1
        beside = {here._replace(stage=stage) for stage in (here.stage - 1, here.stage + 1) if 0 <= stage <= last}
        stages = {0, last} if ties_ends and here.stage in (0, last) else {here.stage}
        same = {place for place in self.places if place.stage in stages}
        return {self.node(place): self.places[place].address for place in sorted((beside | same) - {here})}
