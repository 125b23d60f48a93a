"""What a sampled sequence has said so far, and what that does to its logits. Knows nothing of randomness."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muster.spec.sampling import Sampling


def needs_history(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


class History:
    """Distinct tokens of one sequence and how often each was emitted (0: seen in the prompt only)."""

    def __init__(self, context: Sequence[int], num_prompt: int) -> None:
        self._index: dict[int, int] = {}
        self._tokens = np.empty(64, dtype=np.int64)
        self._counts = np.empty(64, dtype=np.float32)
        for token in context[:num_prompt]:
            self._add(token, 0)
        for token in context[num_prompt:]:
            self._add(token, 1)

    def emitted(self, token: int) -> None:
        self._add(token, 1)

    def tokens(self) -> NDArray[np.int64]:
        return self._tokens[: len(self._index)]

    def counts(self) -> NDArray[np.float32]:
        return self._counts[: len(self._index)]

    def _add(self, token: int, count: int) -> None:
        index = self._index.get(token)
        if index is None:
            index = len(self._index)
            self._index[token] = index
            if index == len(self._tokens):
                self._tokens = np.resize(self._tokens, 2 * index)
                self._counts = np.resize(self._counts, 2 * index)
            self._tokens[index], self._counts[index] = token, 0.0
        self._counts[index] += count


def penalise(logits_SV: Tensor, rows: list[int], samplings: list[Sampling], histories: list[History]) -> None:
    """Change in place the logits of `rows` as their `samplings` and `histories` ask.

    Repetition (Keskar et al., "CTRL", 2019, section 4.1, with the usual fix for negative logits) over prompt and
    output; presence and frequency over the output, as the OpenAI API defines them.
    """
    lengths = [len(history.tokens()) for history in histories]

    def spread(values: list[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), lengths)).to(logits_SV.device)

    row_N = torch.from_numpy(np.repeat(np.array(rows, dtype=np.int64), lengths)).to(logits_SV.device)
    token_N = torch.from_numpy(np.concatenate([h.tokens() for h in histories])).to(logits_SV.device)
    count_N = torch.from_numpy(np.concatenate([h.counts() for h in histories])).to(logits_SV.device)
    value_N = logits_SV[row_N, token_N]
    repetition_N = spread([s.repetition_penalty for s in samplings])
    value_N = torch.where(value_N > 0, value_N / repetition_N, value_N * repetition_N)
    value_N -= spread([s.frequency_penalty for s in samplings]) * count_N
    value_N -= spread([s.presence_penalty for s in samplings]) * (count_N > 0)
    logits_SV[row_N, token_N] = value_N


def add_bias(logits_SV: Tensor, rows: list[int], samplings: list[Sampling]) -> None:
    """Add in place every row's `logit_bias`."""
    row_N = [row for row, sampling in zip(rows, samplings, strict=True) for _ in sampling.logit_bias]
    token_N = [token for sampling in samplings for token in sampling.logit_bias]
    bias_N = torch.tensor([bias for s in samplings for bias in s.logit_bias.values()], device=logits_SV.device)
    where = (torch.tensor(row_N, device=logits_SV.device), torch.tensor(token_N, device=logits_SV.device))
    logits_SV[where] = logits_SV[where] + bias_N
