"""Logits become scores of prompts: how likely each token was, given those before it. Knows nothing of pages or stages.

The logits of a step come in pieces of a few tokens, because those of a long prompt would not fit in memory; a piece
may hold the end of one row and the beginning of the next.

Legend of shape suffixes: C tokens of a piece, V vocabulary, K kept best logits, N tokens of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from muster.spec.scores import LEAST_LOGPROB, Floats, Ints, PromptScores
from muster.wire.messages.generate import Admit, Row


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """A prompt that is scored: its tokens, and how many of the best tokens are named beside each."""

    tokens: tuple[int, ...]
    alternatives: int


def prompt_to_score(admit: Admit) -> ScoredPrompt | None:
    kept = admit.sampling.prompt_logprobs
    return None if kept is None else ScoredPrompt(admit.context[: admit.num_prompt], kept)


_Piece = tuple[Floats, Ints, Ints, Floats]


class Scoring:
    """The scores of one step. `look` at its logits piece by piece; `results` are there when all have come."""

    def __init__(self, rows: Sequence[Row], prompts: Mapping[int, ScoredPrompt]) -> None:
        """`prompts` by slot."""
        self._rows = [row for row in rows if row.scores]
        self._prompts = [prompts[row.slot] for row in self._rows]
        ends = [(row.start + 1, row.start + 1 + row.scores) for row in self._rows]
        spans = [prompt.tokens[slice(*end)] for prompt, end in zip(self._prompts, ends, strict=True)]
        self._targets = [token for span in spans for token in span]
        self._most = max((prompt.alternatives for prompt in self._prompts), default=0)
        self._pieces: list[_Piece] = []
        self._seen = 0

    def look(self, logits_CV: Tensor) -> None:
        """Overwrites the logits."""
        targets = self._targets[self._seen : self._seen + len(logits_CV)]
        self._seen += len(targets)
        self._pieces.append(_score(logits_CV, targets, min(self._most, logits_CV.shape[1])))

    def results(self) -> tuple[PromptScores, ...]:
        """One per row that is scored, in the order of the rows."""
        if not self._rows:
            return ()
        columns = [np.concatenate(column) for column in zip(*self._pieces, strict=True)]
        results, begin = [], 0
        for row, prompt in zip(self._rows, self._prompts, strict=True):
            logprobs_N, ranks_N, tokens_NK, others_NK = (column[begin : begin + row.scores] for column in columns)
            kept = prompt.alternatives
            packed = PromptScores.pack(row.start + 1, logprobs_N, ranks_N, tokens_NK[:, :kept], others_NK[:, :kept])
            results.append(packed)
            begin += row.scores
        return tuple(results)


def _score(logits_CV: Tensor, targets: Sequence[int], most: int) -> _Piece:
    logits_CV -= logits_CV.logsumexp(dim=-1, keepdim=True)
    # What a model rules out (minus infinity) or cannot say (NaN) is still a number on the wire.
    logits_CV.nan_to_num_(nan=LEAST_LOGPROB, neginf=LEAST_LOGPROB)
    chosen_C1 = logits_CV.gather(1, torch.tensor([[token] for token in targets], device=logits_CV.device))
    ranks_C = (logits_CV > chosen_C1).sum(dim=-1, dtype=torch.int32) + 1
    best = logits_CV.topk(most, dim=-1)
    return (
        chosen_C1[:, 0].cpu().numpy(),
        ranks_C.cpu().numpy(),
        best.indices.int().cpu().numpy(),
        best.values.cpu().numpy(),
    )
