"""What places must agree on before weights change: gradients of weights that several hold, and sums over all places.

    the j-th stages of all pipelines           hold the same layers
    first and last stages of all pipelines     hold an embedding that is also the output projection

Everybody adds the same numbers in the same order, so that equal weights stay equal to the last bit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from muster.train.instructions import LetterLabel, Place, Receive, SendLetter, Work

ORDINARY, AT_BOTH_ENDS = 0, 1
"""Two exchanges, by the microbatch of their label."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one place, or of all."""

    values: tuple[float, ...]


def holders(place: Place, pipelines: Iterable[int], stages: int, at_both_ends: bool) -> list[Place]:
    """Of a weight of `place` in `pipelines`, in order; `place` among them."""
    ends = sorted({0, stages - 1}) if at_both_ends else [place.stage]
    return [Place(pipeline, stage) for pipeline in pipelines for stage in ends]


def add_gradients(
    parameters: Mapping[str, nn.Parameter],
    at_both_ends: frozenset[str],
    place: Place,
    group: Callable[[bool], Sequence[Place]],
) -> Work[None]:
    """Replace each weight's gradient by the sum over its `group`, which is told whether both ends hold the weight."""
    ordinary = {name: one for name, one in parameters.items() if name not in at_both_ends}
    both = {name: one for name, one in parameters.items() if name in at_both_ends}
    yield from _add(ordinary, place, group(False), LetterLabel("shared", ORDINARY))
    yield from _add(both, place, group(True), LetterLabel("shared", AT_BOTH_ENDS))


def _add(parameters: Mapping[str, nn.Parameter], here: Place, group: Sequence[Place], label: LetterLabel) -> Work[None]:
    if len(group) < 2 or not parameters:
        return
    own = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for place in group:
        if place != here:
            yield SendLetter(place, label, own)
    sums: dict[str, Tensor] = {}
    for place in group:
        came = own if place == here else (yield Receive(place, label))
        for name, gradient in came.items():
            moved = gradient.to(parameters[name].device)
            sums[name] = sums[name] + moved if name in sums else moved
    for name, gradient in sums.items():
        parameters[name].grad = gradient


def squared_norm(parameters: Mapping[str, nn.Parameter], counted: frozenset[str]) -> float:
    """Of the gradients of weights in `counted`."""
    squares = [
        one.grad.detach().double().square().sum()
        for name, one in parameters.items()
        if name in counted and one.grad is not None
    ]
    return float(torch.stack(squares).sum()) if squares else 0.0


def tell_all(
    figures: Sequence[float], here: Place, places: Sequence[Place], which: int = 0
) -> Work[list[tuple[float, ...]]]:
    """The figures of all places, in the order of `places`.

    `which` tells apart what is told in one piece of work: some are on to the next before others have read this.
    """
    label = LetterLabel("figures", which)
    for place in places:
        if place != here:
            yield SendLetter(place, label, {"figures": torch.tensor(figures, dtype=torch.float64)})
    found = []
    for place in places:
        if place == here:
            found.append(tuple(figures))
        else:
            came = yield Receive(place, label)
            found.append(tuple(came["figures"].tolist()))
    return found


def clipping_scale(squared: float, most: float | None) -> float:
    """What all gradients are multiplied by so that their norm is at most `most` (Pascanu et al., 2013), as in torch."""
    return 1.0 if most is None else min(1.0, most / (sqrt(squared) + 1e-6))
