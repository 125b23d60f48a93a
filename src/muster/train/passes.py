"""A stage's microbatches forward and back, in the order of its schedule. Knows no optimizer.

    first stage     ids ──▶ hidden ─▶ send          receive ─▶ gradient of hidden ──▶ gradients of weights
    between         receive ─▶ hidden ─▶ send       receive ─▶ gradient of hidden ──▶ … and of the input ─▶ send
    last stage      receive ─▶ loss                 loss ──▶ gradients of weights, and of the input ─▶ send

What the way back needs of a microbatch is kept by its own graph, from the received input to the output that was sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from muster.model.trainable import TrainableStage
from muster.sim.train.schedules import order
from muster.spec.workload import TrainWorkload
from muster.train.corpus import numbers_of
from muster.train.instructions import LetterLabel, Place, Receive, SendLetter, Work

NONE_BAD = -1


@dataclass(slots=True)
class PassesOutcome:
    """What a stage knows of a step when its microbatches are back."""

    loss: float = 0.0
    """Nats, its share of the mean over all tokens of the step; 0 but on a last stage."""
    first_bad: int = NONE_BAD
    """The first microbatch of which this stage made something that is not a number."""


class Passes:
    def __init__(self, stage: TrainableStage, place: Place, texts: Sequence[Tensor], total_tokens: int) -> None:
        """`texts` are this pipeline's microbatches, token ids [B, T + 1]; the step predicts `total_tokens` in all."""
        self._stage, self._place, self._texts, self._total_tokens = stage, place, texts, total_tokens
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._losses: list[Tensor] = []
        self._finite: dict[int, Tensor] = {}

    def run(self, workload: TrainWorkload, stages: int) -> Work[PassesOutcome]:
        for work in order(workload, self._place.stage, stages, len(self._texts), chunks=1):
            if work.kind == "forward":
                yield from self.forward(work.microbatch)
            else:
                yield from self._backward(work.microbatch)
        bad = [microbatch for microbatch, finite in sorted(self._finite.items()) if not finite]
        return PassesOutcome(float(sum(loss.double() for loss in self._losses)), bad[0] if bad else NONE_BAD)

    def forward(self, microbatch: int, keeps: bool = True) -> Work[Tensor]:
        """The output: a hidden state, or on the last stage the microbatch's share of the mean loss.

        `keeps` what the way back needs.
        """
        x = yield from self._input(microbatch, keeps)
        with torch.set_grad_enabled(keeps):
            output = self._compute(x.requires_grad_(keeps and not self._stage.is_first), microbatch)
        if not self._stage.is_last:
            numbers = self._numbers(microbatch) if keeps else ()
            yield SendLetter(
                self._neighbour(1), LetterLabel("activations", microbatch), {"hidden": output.detach()}, numbers
            )
        if keeps:
            self._keep(microbatch, x, output)
        return output

    def _compute(self, x: Tensor, microbatch: int) -> Tensor:
        output = self._stage.run(x)
        if not self._stage.is_last:
            return output
        targets_N = self._texts[microbatch][:, 1:].to(output.device).flatten()
        return cross_entropy(output.flatten(0, 1), targets_N, reduction="sum") / self._total_tokens

    def _input(self, microbatch: int, keeps: bool) -> Work[Tensor]:
        if self._stage.is_first:
            return self._texts[microbatch][:, :-1].to(self._stage.device)
        numbers = self._numbers(microbatch) if keeps else ()
        came = yield Receive(self._neighbour(-1), LetterLabel("activations", microbatch), numbers)
        return came["hidden"].to(self._stage.device)

    def _keep(self, microbatch: int, x: Tensor, output: Tensor) -> None:
        self._kept[microbatch] = x, output
        self._finite[microbatch] = torch.isfinite(output.detach()).all()
        if self._stage.is_last:
            self._losses.append(output.detach())

    def _backward(self, microbatch: int) -> Work[None]:
        gradient = None
        if not self._stage.is_last:
            came = yield Receive(self._neighbour(1), LetterLabel("gradients", microbatch), self._numbers(microbatch))
            gradient = came["hidden"].to(self._stage.device)
        x, output = self._kept.pop(microbatch)
        if output.requires_grad:
            self._stage.go_back(output, gradient)
        if not self._stage.is_first:
            back = torch.zeros_like(x) if x.grad is None else x.grad
            numbers = self._numbers(microbatch)
            yield SendLetter(self._neighbour(-1), LetterLabel("gradients", microbatch), {"hidden": back}, numbers)

    def _numbers(self, microbatch: int) -> tuple[int, ...]:
        return numbers_of(self._texts[microbatch])

    def _neighbour(self, distance: int) -> Place:
        return self._place._replace(stage=self._place.stage + distance)
