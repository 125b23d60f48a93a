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

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from muster.compress.feedback import ErrorFeedback
from muster.compress.registry import make_coder
from muster.spec.codec import Codec
from muster.spec.training import ExchangeTable
from muster.train.buckets import flattened, packed, spread, unpacked
from muster.train.exchange import add_gradients, holders
from muster.train.instructions import Label, Place, Receive, Send, Tensors, Work

_SHARES, _SUMS, _MOVES = 2, 4, 6
"""Exchanges by the microbatch of their label, each with one more for weights that both ends hold."""
Weights = Mapping[str, nn.Parameter]


class Exchange(Protocol):
    local: bool
    """Whether pipelines go on by themselves between two exchanges."""

    def gradients(self) -> Work[None]:
        """Replace each weight's gradient by that of all who must agree on it now."""

    def weights(self, steps: int) -> Work[None]:
        """After `steps` steps in all: replace weights by what all agree on, where it is time for that."""

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

    def weights(self, steps: int) -> Work[None]:
        del steps
        yield from ()

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
        self._feedbacks: dict[tuple[Label, Place], ErrorFeedback] = {}

    def gradients(self) -> Work[None]:
        for offset, (weights, at_both_ends) in enumerate(((self._ordinary, False), (self._both, True))):
            yield from self._sum(weights, self._everybody(at_both_ends), offset)

    def _sum(self, weights: Weights, group: Sequence[Place], offset: int) -> Work[None]:
        if len(group) < 2 or not weights:
            return
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights.values()]
        shares_PRW = flattened(own, len(group))
        shape, shares, sums = shares_PRW.shape[1:], Label("shared", _SHARES + offset), Label("shared", _SUMS + offset)
        for index, place in enumerate(group):
            if place != self._place:
                yield Send(place, shares, packed(shares_PRW[index], self._feedback(shares, place))[0])
        total_RW = torch.zeros(shape)
        for index, place in enumerate(group):
            if place == self._place:
                total_RW += shares_PRW[index]
            else:
                total_RW += unpacked((yield Receive(place, shares)), shape, self._codec, self._coder)
        message, decoded = packed(total_RW, self._feedback(sums, self._place))
        for place in group:
            if place != self._place:
                yield Send(place, sums, message)
        for index, place in enumerate(group):
            if place != self._place:
                decoded_RW = unpacked((yield Receive(place, sums)), shape, self._codec, self._coder)
                shares_PRW[index] = decoded_RW
            else:
                shares_PRW[index] = decoded
        for name, gradient in spread(shares_PRW, weights).items():
            weights[name].grad = gradient

    def _feedback(self, label: Label, place: Place) -> ErrorFeedback:
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

    def weights(self, steps: int) -> Work[None]:
        if steps % self._options.every:
            return
        for offset, weights in enumerate((self._ordinary, self._both)):
            if weights:
                yield from self._meet(weights, offset)

    def _meet(self, weights: Weights, offset: int) -> Work[None]:
        """Of what both ends hold the first stages speak for both: packed twice, it might differ in a last bit."""
        everybody = self._everybody(offset == 1)
        speakers = [place for place in everybody if offset == 0 or place.stage == 0]
        moved_RW = flattened([self._start[name] - one.detach() for name, one in weights.items()])[0]
        label, own = Label("shared", _MOVES + offset), moved_RW
        if self._place in speakers:
            message, own = packed(moved_RW, self._feedbacks[offset])
            for place in everybody:
                if place != self._place:
                    yield Send(place, label, message)
        mean_RW = torch.zeros_like(moved_RW)
        for place in speakers:
            if place == self._place:
                mean_RW += own
            else:
                mean_RW += unpacked((yield Receive(place, label)), moved_RW.shape, self._options.codec, self._coder)
        self._outer_step(weights, spread(mean_RW / len(speakers), {name: self._start[name] for name in weights}))

    @torch.no_grad()
    def _outer_step(self, weights: Weights, moved: Mapping[str, Tensor]) -> None:
        """SGD with Nesterov momentum on how far weights went, as in `torch.optim.SGD`."""
        rate, momentum = self._options.outer_learning_rate, self._options.outer_momentum
        for name, weight in weights.items():
            self._momentum[name].mul_(momentum).add_(moved[name])
            step = moved[name] + momentum * self._momentum[name]
            self._start[name].sub_(step, alpha=rate)
            weight.copy_(self._start[name])

    def state(self) -> dict[str, Tensor]:
        return {f"outer.{name}": one for name, one in self._momentum.items()}

    def restore(self, state: Tensors) -> None:
        """Weights are those that the checkpoint has; what single replicas had not yet sent is gone."""
        for name, one in {**self._ordinary, **self._both}.items():
            self._start[name] = one.detach().clone()
            if f"outer.{name}" in state:
                self._momentum[name] = state[f"outer.{name}"].to(one.device, copy=True)
