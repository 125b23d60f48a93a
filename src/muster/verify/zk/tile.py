"""A few rows of the disputed operator: small enough for a proof. Which rows, what they should be, how far they may be.

    y_R = w_RK @ x_K + b_R        one token's input, R rows of the weights

All outputs are in the last statement, so the tile that holds the worst number is known at once, without more rounds.
Who has no weights still knows `x_K` and the claimed `y_R`, which both were signed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from muster.errors import InvalidRequest, ProtocolViolation
from muster.verify.disputes.execute import check_held
from muster.verify.disputes.interval import judge
from muster.verify.disputes.program import HeldTensor, TracedOperator, Value
from muster.verify.disputes.rounding import SMALLEST, UNIT, gamma, working_unit
from muster.verify.disputes.tensors import from_raw
from muster.verify.zk.fixed import Numbers
from muster.verify.zk.transcript import ShownOperator

MOST_PRODUCTS = 36_864
"""Of one tile: what ezkl proves within a minute on two cores, keys included."""


@dataclass(frozen=True, slots=True)
class TilePlace:
    """Which numbers of the operator's output."""

    token: int
    """Row of the output, taken as a matrix."""
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class TileInputs:
    """What anybody sees: the input of one token, with a 1 behind it where there is a bias, and what was claimed."""

    x_K: Numbers
    claimed_R: Numbers
    dtype: torch.dtype

    def radius(self, exact_R: Numbers, largest_w: float) -> Numbers:
        """How far an honest result may be from the exact one, for weights no larger than this. As `bounds._linear`."""
        unit = working_unit(self.dtype)
        sums = gamma(len(self.x_K) + 2, unit) * unit * np.abs(self.x_K).sum() * largest_w
        rounds = UNIT[self.dtype] * (2 * np.abs(exact_R) + largest_w) * (1 + 2**-10)
        return np.asarray(sums + rounds + SMALLEST[self.dtype] + 2.0**-126)


def weights_name(operator: TracedOperator) -> HeldTensor:
    """Raise `InvalidRequest` where the operator is no product of a vector and weights."""
    arguments = operator.arguments
    if operator.name != "linear" or len(arguments) < 2 or not isinstance(arguments[0], Value):
        raise InvalidRequest(
            f"The dispute ended at {operator.in_words()}; a proof is for `linear`, whose weights may stay secret. "
            "All other operators have public inputs: run it again, which takes microseconds."
        )
    if not isinstance(arguments[1], HeldTensor):
        raise InvalidRequest("The weights of the disputed operator are in the transcript; run it again instead.")
    return arguments[1]


def bias_name(operator: TracedOperator) -> HeldTensor | None:
    found = dict(operator.named).get("bias", operator.arguments[2] if len(operator.arguments) > 2 else None)
    return found if isinstance(found, HeldTensor) else None


def worst_place(shown: ShownOperator, held: Mapping[str, Tensor], rows: int | None = None) -> TilePlace:
    """The tile around the number that is furthest outside, with as many rows as a proof can hold."""
    operator = shown.operator
    weights_name(operator)
    check_held(operator, held)
    values, claimed = _tensors(shown)
    finding = judge(operator, values, dict(held), [claimed])
    outputs = claimed.shape[-1]
    inner = values[operator.takes()[0]].shape[-1] + (bias_name(operator) is not None)
    rows = min(rows or max(1, MOST_PRODUCTS // inner), outputs)
    where = finding.where[1:]
    token = int(np.ravel_multi_index(where[:-1], claimed.shape[:-1])) if len(where) > 1 else 0
    first = min((where[-1] if where else 0) // rows * rows, outputs - rows)
    return TilePlace(token, first, first + rows)


def given(shown: ShownOperator, place: TilePlace) -> TileInputs:
    """Raise `ProtocolViolation` where there is no such place."""
    weights_name(shown.operator)
    values, claimed = _tensors(shown)
    x = values[shown.operator.takes()[0]]
    tokens, outputs = prod(claimed.shape[:-1]), claimed.shape[-1]
    if not (0 <= place.token < tokens and 0 <= place.first < place.last <= outputs):
        raise ProtocolViolation("The proof is of numbers that the disputed operator does not have.")
    x_K = x.reshape(tokens, -1)[place.token].double().numpy()
    if bias_name(shown.operator) is not None:
        x_K = np.append(x_K, 1.0)
    claimed_R = claimed.reshape(tokens, -1)[place.token, place.first : place.last].double().numpy()
    return TileInputs(x_K, claimed_R, claimed.dtype)


def secret(operator: TracedOperator, held: Mapping[str, Tensor], place: TilePlace) -> Numbers:
    """Rows of the weights, `[R, K]`, the bias behind them. Raises `ProtocolViolation` for others than disputed."""
    check_held(operator, held)
    names = (weights_name(operator), bias_name(operator))
    parts = [held[one.name][place.first : place.last].double() for one in names if one is not None]
    w_RK = torch.cat([part if part.dim() == 2 else part[:, None] for part in parts], 1).numpy()
    return np.asarray(w_RK)


def _tensors(shown: ShownOperator) -> tuple[dict[int, Tensor], Tensor]:
    """The values that the operator takes, and the one that it is claimed to make."""
    operator = shown.operator
    numbers = operator.takes()
    if len(shown.inputs) != len(numbers) or len(shown.outputs) != len(operator.made) or len(operator.made) != 1:
        raise ProtocolViolation(f"The last statement shows too few or too many tensors for {operator.name}.")
    found = [from_raw(one.dtype, one.shape, one.data) for one in (*shown.inputs, *shown.outputs)]
    return dict(zip(numbers, found[:-1], strict=True)), found[-1]
