"""How pipelines that hold the same model keep it the same: gradients in every step, or weights every so many steps.

    exact         every step: sums of gradients, everybody's to everybody
    compressed    every step: each adds up its share of the weights and sends the sum to all, both ways packed, with
                  error feedback on both (Tang et al., DoubleSqueeze, 2019; as in AQ-SGD's code)
    local steps   every H steps: all send how far their weights went, packed; the mean goes through an outer optimizer
                  (DiLoCo, arXiv 2311.08105; with sparse messages and error feedback SparseLoCo, arXiv 2508.15706)

Each is used alike by a stage's step: `tokens` and `places` say over whom a loss is a mean, `gradients` comes before the
optimizer, `weights` after it. Replicas end each exchange with the same numbers to the last bit: everybody, the sender
too, goes on with what was decoded.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Protocol

import torch
from torch import Tensor, nn

from muster.compress.feedback import ErrorFeedback
from muster.compress.registry import make_coder
from muster.spec.codec import Codec
from muster.spec.training import ExchangeTable
from muster.train.buckets import flattened, packed, spread, unpacked
from muster.train.exchange import add_gradients, holders, tell_all
from muster.train.instructions import LetterLabel, Place, Receive, SendLetter, Tensors, Work
from muster.train.judging import refused
from muster.train.score import Score

_SHARES, _SUMS, _MOVES = 2, 4, 6
"""Exchanges by the microbatch of their label, each with one more for weights that both ends hold."""
Weights = Mapping[str, nn.Parameter]
Probe = Callable[[int], Work[list[Score]]]
"""How well each pipeline predicts its last texts by the weights that it has now; `which` as in `tell_all`, from 2."""


class Exchange(Protocol):
    local: bool
    """Whether pipelines go on by themselves between two exchanges."""

    def gradients(self) -> Work[None]:
        """Replace each weight's gradient by that of all who must agree on it now."""

    def weights(self, steps: int, probe: Probe) -> Work[tuple[int, ...]]:
        """After `steps` steps in all: replace weights by what all agree on, where it is time for that.

        Returns the replicas whose move was not taken.
        """

    def state(self) -> dict[str, Tensor]:
        """What is kept from exchange to exchange and belongs into a checkpoint, by names of weights."""

    def restore(self, state: Tensors) -> None:
        """Go on from what `state` said, of these weights and maybe others."""


def make_exchange(
    options: ExchangeTable, parameters: Weights, at_both_ends: frozenset[str], place: Place, pipelines: int, stages: int
) -> Exchange:
    """Raises `Unsupported` for an unknown codec."""
    ordinary = {name: one for name, one in parameters.items() if name not in at_both_ends}
    both = {name: one for name, one in parameters.items() if name in at_both_ends}
    if options.every > 1 and pipelines > 1:
        return _LocalSteps(options, ordinary, both, place, pipelines, stages)
    if options.codec != "raw" and pipelines > 1:
        return _CompressedSums(options, ordinary, both, place, pipelines, stages)
    return _ExactSums(ordinary, both, place, pipelines, stages)


class _Base:
    local = False

    def __init__(self, ordinary: Weights, both: Weights, place: Place, pipelines: int, stages: int) -> None:
        self._ordinary, self._both, self._place = dict(ordinary), dict(both), place
        self._pipelines, self._stages = pipelines, stages

    def gradients(self) -> Work[None]:
        parameters = {**self._ordinary, **self._both}
        yield from add_gradients(parameters, frozenset(self._both), self._place, self._everybody)

    def weights(self, steps: int, probe: Probe) -> Work[tuple[int, ...]]:
        del steps, probe
        return ()
        yield  # a generator, as all of them are

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Tensors) -> None:
        del state

    def _everybody(self, at_both_ends: bool) -> list[Place]:
        return holders(self._place, range(self._pipelines), self._stages, at_both_ends)


class _ExactSums(_Base):
    pass


class _CompressedSums(_Base):
    def __init__(
        self, options: ExchangeTable, ordinary: Weights, both: Weights, place: Place, pipelines: int, stages: int
    ) -> None:
        super().__init__(ordinary, both, place, pipelines, stages)
        self._codec = options.codec
        self._coder = make_coder(Codec(options.codec))
        self._feedbacks: dict[tuple[LetterLabel, Place], ErrorFeedback] = {}

    def gradients(self) -> Work[None]:
        for offset, (weights, at_both_ends) in enumerate(((self._ordinary, False), (self._both, True))):
            yield from self._sum(weights, self._everybody(at_both_ends), offset)

    def _sum(self, weights: Weights, group: Sequence[Place], offset: int) -> Work[None]:
        if len(group) < 2 or not weights:
            return
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights.values()]
        shares_PRW = flattened(own, len(group))
        shape, shares, sums = (
            shares_PRW.shape[1:],
            LetterLabel("shared", _SHARES + offset),
            LetterLabel("shared", _SUMS + offset),
        )
        for index, place in enumerate(group):
            if place != self._place:
                yield SendLetter(place, shares, packed(shares_PRW[index], self._feedback(shares, place))[0])
        total_RW = torch.zeros(shape)
        for index, place in enumerate(group):
            if place == self._place:
                total_RW += shares_PRW[index]
            else:
                total_RW += unpacked((yield Receive(place, shares)), shape, self._codec, self._coder)
        message, decoded = packed(total_RW, self._feedback(sums, self._place))
        for place in group:
            if place != self._place:
                yield SendLetter(place, sums, message)
        for index, place in enumerate(group):
            if place != self._place:
                decoded_RW = unpacked((yield Receive(place, sums)), shape, self._codec, self._coder)
                shares_PRW[index] = decoded_RW
            else:
                shares_PRW[index] = decoded
        for name, gradient in spread(shares_PRW, weights).items():
            weights[name].grad = gradient

    def _feedback(self, label: LetterLabel, place: Place) -> ErrorFeedback:
        return self._feedbacks.setdefault((label, place), ErrorFeedback(make_coder(Codec(self._codec))))


class _LocalSteps(_Base):
    local = True

    def __init__(
        self, options: ExchangeTable, ordinary: Weights, both: Weights, place: Place, pipelines: int, stages: int
    ) -> None:
        super().__init__(ordinary, both, place, pipelines, stages)
        self._options = options
        self._coder = make_coder(Codec(options.codec))
        # Without error feedback what a message lost is lost; with it, it goes with the next.
        self._feedbacks = [ErrorFeedback(self._coder, options.feedback) for _ in range(2)]
        parameters = {**self._ordinary, **self._both}
        self._start = {name: one.detach().clone() for name, one in parameters.items()}
        self._momentum = {name: torch.zeros_like(one) for name, one in self._start.items()}

    def gradients(self) -> Work[None]:
        parameters = {**self._ordinary, **self._both}
        yield from add_gradients(parameters, frozenset(self._both), self._place, self._own_pipeline)

    def _own_pipeline(self, at_both_ends: bool) -> list[Place]:
        return holders(self._place, [self._place.pipeline], self._stages, at_both_ends)

    def weights(self, steps: int, probe: Probe) -> Work[tuple[int, ...]]:
        if steps % self._options.every:
            return ()
        moves: list[dict[str, Tensor]] = [{} for _ in range(self._pipelines)]
        for offset, weights in enumerate((self._ordinary, self._both)):
            if weights:
                for move, part in zip(moves, (yield from self._told(weights, offset)), strict=True):
                    move.update(spread(part, {name: self._start[name] for name in weights}))
        rejected = (yield from self._judged(moves, probe)) if self._options.judged else ()
        taken = [move for replica, move in enumerate(moves) if replica not in rejected]
        self._outer_step(taken)
        return rejected

    def moved(self, weights: Weights) -> Tensor:
        """How far this replica's weights went since all met, [rows, ROW]."""
        return flattened([self._start[name] - one.detach() for name, one in weights.items()])[0]

    def _told(self, weights: Weights, offset: int) -> Work[list[Tensor]]:
        """Of each replica how far it went.

        Of what both ends hold the first stages speak for both: packed twice, it might differ in a last bit.
        """
        everybody = self._everybody(offset == 1)
        speakers = [place for place in everybody if offset == 0 or place.stage == 0]
        moved_RW = self.moved(weights)
        label, own = LetterLabel("shared", _MOVES + offset), moved_RW
        if self._place in speakers:
            message, own = packed(moved_RW, self._feedbacks[offset])
            for place in everybody:
                if place != self._place:
                    yield SendLetter(place, label, message)
        told = []
        for place in speakers:
            if place == self._place:
                told.append(own)
            else:
                came = yield Receive(place, label)
                told.append(unpacked(came, moved_RW.shape, self._options.codec, self._coder))
        return told

    def _judged(self, moves: Sequence[Mapping[str, Tensor]], probe: Probe) -> Work[tuple[int, ...]]:
        """Replicas whose move is not taken (`judging`): each alone is made, at the weight that it has in the mean."""
        gram = yield from self._gram(moves)
        numbers = count(2)

        def losses(move: Mapping[str, Tensor]) -> Work[list[float]]:
            self._set({name: start - move[name] / len(moves) if move else start for name, start in self._start.items()})
            return [one.loss for one in (yield from probe(next(numbers)))]

        start = yield from losses({})
        gains = []
        for move in moves:
            moved = yield from losses(move)
            gains.append([before - after for before, after in zip(start, moved, strict=True)])
        return refused(gram, gains)

    def _gram(self, moves: Sequence[Mapping[str, Tensor]]) -> Work[list[list[float]]]:
        """Inner products over the whole model: each stage tells the others of its pipeline its part.

        What both ends hold is counted by the first stage alone.
        """
        names = [*self._ordinary, *(self._both if self._place.stage == 0 else ())]
        own = [
            sum((float(one[name].flatten() @ other[name].flatten()) for name in names), 0.0)
            for one in moves
            for other in moves
        ]
        stages = [Place(self._place.pipeline, stage) for stage in range(self._stages)]
        told = yield from tell_all(own, self._place, stages, 1)
        sums = [sum(part) for part in zip(*told, strict=True)]
        return [sums[row * len(moves) : (row + 1) * len(moves)] for row in range(len(moves))]

    @torch.no_grad()
    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        for name, weight in {**self._ordinary, **self._both}.items():
            weight.copy_(tensors[name])

    @torch.no_grad()
    def _outer_step(self, moves: Sequence[Mapping[str, Tensor]]) -> None:
        """SGD with Nesterov momentum on the mean of how far weights went, as in `torch.optim.SGD`. Of none: none."""
        rate, momentum = self._options.outer_learning_rate, self._options.outer_momentum
        mean = _mean(moves, range(len(moves))) if moves else {}
        for name, start in self._start.items():
            if moves:
                self._momentum[name].mul_(momentum).add_(mean[name])
                start.sub_(mean[name] + momentum * self._momentum[name], alpha=rate)
        self._set(self._start)

    def state(self) -> dict[str, Tensor]:
        return {f"outer.{name}": one for name, one in self._momentum.items()}

    def restore(self, state: Tensors) -> None:
        """Weights are those that the checkpoint has; what single replicas had not yet sent is gone."""
        for name, one in {**self._ordinary, **self._both}.items():
            self._start[name] = one.detach().clone()
            if f"outer.{name}" in state:
                self._momentum[name] = state[f"outer.{name}"].to(one.device, copy=True)


def _mean(moves: Sequence[Mapping[str, Tensor]], replicas: Sequence[int]) -> dict[str, Tensor]:
    """Added up in order, so that it is the same everywhere."""
    first, *others = (moves[replica] for replica in replicas)
    total = {name: one.clone() for name, one in first.items()}
    for move in others:
        for name, one in move.items():
            total[name] += one
    return {name: one / len(replicas) for name, one in total.items()}
