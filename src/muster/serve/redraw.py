"""Draws tokens again that another machine has drawn, from logits that were computed anew: how clear is each refusal?

The noise depends on seed, position and token alone (`race`), so the same logits draw the same tokens, and nearly the
same logits draw another only where two tokens arrive nearly together. How much later the claimed token arrives than the
winner is its margin, as a difference of logarithms: 0 for the winner itself, small where rounding decides, large where
the sampler was another one (temperature, seed, greedy, other logits).

Legend of shape suffixes: S sampled tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.serve.generator import Noise
from muster.serve.race import arrivals, first_to_arrive
from muster.serve.sampling import GREEDY_BELOW, truncated
from muster.spec.sampling import Sampling

Floats = npt.NDArray[np.float64]
UNTRUSTED = 1e-30
"""Instead of the weight 0 of a token that could not be drawn."""
EDGE = 0.05
"""A token whose weight is so near to where top-k, top-p or min-p cut, as a difference of logarithms, may be cut off by
one machine and not by another."""


@dataclass(frozen=True, slots=True)
class Redrawn:
    margins_S: Floats
    """Of each claimed token; 0 where it is what comes out."""
    surprise_S: Floats
    """By how many standard deviations each token is likelier than the mean at this temperature; 0 if greedy."""


def redraw(logits_SV: Tensor, tokens: Sequence[int], sampling: Sampling, first_position: int) -> Redrawn:
    """`logits_SV` are float32 and adjusted (penalties, bias, grammar); token i stands at `first_position` + i."""
    claimed_S1 = torch.tensor(tokens, device=logits_SV.device)[:, None]
    if sampling.temperature < GREEDY_BELOW:
        best_S = logits_SV.amax(dim=-1)
        return Redrawn(_numbers(best_S - logits_SV.gather(1, claimed_S1)[:, 0]), np.zeros(len(tokens)))
    rows = len(tokens)
    whole_SV = _to_best(truncated(logits_SV, [replace(sampling, top_k=0, top_p=1.0, min_p=0.0)] * rows))
    weights_SV = _to_best(truncated(logits_SV, [sampling] * rows))
    more, fewer = (replace(sampling, top_p=min(1.0, max(1e-6, sampling.top_p + by))) for by in (EDGE / 4, -EDGE / 4))
    more_SV, fewer_SV = _to_best(truncated(logits_SV, [more] * rows)), weights_SV
    if sampling.top_p < 1.0:
        fewer_SV = _to_best(truncated(logits_SV, [fewer] * rows))
    race = _Race(whole_SV, list(tokens), sampling.seed, first_position)
    strict_S = np.maximum(race.behind(weights_SV), race.cut_off(_least(weights_SV)))
    floor_S = torch.minimum(_least(more_SV), _least(weights_SV) * math.exp(-EDGE))
    lenient_S = np.maximum(race.behind(_without_edge(fewer_SV)), race.cut_off(floor_S))
    return Redrawn(
        np.minimum(strict_S, np.maximum(EDGE, lenient_S)), _surprise(logits_SV / sampling.temperature, claimed_S1)
    )


class _Race:
    """Of the claimed tokens, whose weights are `whole_SV`, against the others."""

    def __init__(self, whole_SV: Tensor, tokens: list[int], seed: int, first_position: int) -> None:
        self._whole_SV, self._tokens = whole_SV, tokens
        self._seeds, self._positions = [seed] * len(tokens), list(range(first_position, first_position + len(tokens)))
        self._noise = Noise(self._seeds, self._positions)
        self._own_S = self._arrival(tokens)

    def behind(self, weights_SV: Tensor) -> Floats:
        """How far each is behind the winner among the tokens with a weight."""
        winners = first_to_arrive(weights_SV, self._seeds, self._positions)
        is_winner = np.array(winners) == np.array(self._tokens)
        return np.where(is_winner, 0.0, np.maximum(self._own_S - self._arrival(winners), 0.0))

    def cut_off(self, least_S: Tensor) -> Floats:
        """How far each is below the least weight that counts."""
        return _numbers((least_S.double().log() - self._weight(self._tokens).log()).clamp_min(0.0))

    def _weight(self, tokens: list[int]) -> Tensor:
        chosen_S1 = torch.tensor(tokens, device=self._whole_SV.device)[:, None]
        return self._whole_SV.gather(1, chosen_S1)[:, 0].double().clamp_min(UNTRUSTED)

    def _arrival(self, tokens: list[int]) -> Floats:
        """Logarithms of when these tokens arrive."""
        drawn = arrivals(self._noise, self._whole_SV.shape[1], tokens)
        return np.asarray(np.log(np.maximum(drawn, UNTRUSTED)) - _numbers(self._weight(tokens).log()))


def _to_best(weights_SV: Tensor) -> Tensor:
    """As parts of the best, so that weights before and after the cut compare."""
    return weights_SV / weights_SV.amax(dim=-1, keepdim=True)


def _least(weights_SV: Tensor) -> Tensor:
    """The smallest weight of each row that is not 0."""
    return weights_SV.masked_fill(weights_SV <= 0, torch.inf).amin(dim=-1)


def _without_edge(weights_SV: Tensor) -> Tensor:
    """Without the tokens that another machine may find cut off; the best of each row stays."""
    bound_S1 = torch.minimum(_least(weights_SV)[:, None] * math.exp(EDGE), weights_SV.amax(dim=-1, keepdim=True))
    return weights_SV.masked_fill(weights_SV < bound_S1, 0.0)


def _surprise(scaled_SV: Tensor, claimed_S1: Tensor) -> Floats:
    logprobs_SV = scaled_SV.double().log_softmax(dim=-1)
    probs_SV = logprobs_SV.exp()
    safe_SV = logprobs_SV.clamp_min(-1e9)
    mean_S = (probs_SV * safe_SV).sum(dim=-1)
    variance_S = (probs_SV * safe_SV.pow(2)).sum(dim=-1) - mean_S.pow(2)
    above_S = safe_SV.gather(1, claimed_S1)[:, 0] - mean_S
    return _numbers(above_S / variance_S.clamp_min(1e-6).sqrt())


def _numbers(values_S: Tensor) -> Floats:
    return np.asarray(values_S.double().cpu().numpy(), dtype=np.float64)
