"""Log probabilities of prompt tokens, packed: a prompt may have a hundred thousand. Knows nothing of tensors or text.

One record per token, all of them four bytes wide, little endian:

    logprob float | rank int | k times (token int | logprob float)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_WORD = 4

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity."""

ROUNDING = 1e-3
"""A log probability may be that far above zero."""


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Scores of consecutive tokens of one prompt, each given all tokens before it."""

    first: int
    """Position in the prompt of the first of them; the token at 0 has nothing before it, so it has no score."""
    alternatives: int
    """So many of the best tokens come with each, whether it is one of them or not."""
    data: bytes

    @staticmethod
    def pack(first: int, logprobs: Floats, ranks: Ints, tokens: Ints, others: Floats) -> "PromptScores":
        """For N tokens [N] and the K best [N, K], the best first; `others` are the log probabilities of `tokens`."""
        records = np.empty((len(logprobs), 2 + 2 * tokens.shape[1]), dtype="<i4")
        records[:, 0] = logprobs.astype("<f4").view("<i4")
        records[:, 1] = ranks
        records[:, 2::2] = tokens
        records[:, 3::2] = np.ascontiguousarray(others, dtype="<f4").view("<i4")
        return PromptScores(first, tokens.shape[1], records.tobytes())

    @property
    def record_bytes(self) -> int:
        return _WORD * (2 + 2 * self.alternatives)

    @property
    def count(self) -> int:
        return len(self.data) // self.record_bytes

    @property
    def end(self) -> int:
        """Position in the prompt behind the last of them."""
        return self.first + self.count

    def behind(self, position: int) -> "PromptScores":
        """Without those of tokens before `position`."""
        known = min(max(0, position - self.first), self.count)
        return PromptScores(self.first + known, self.alternatives, self.data[known * self.record_bytes :])

    @property
    def logprobs(self) -> Floats:
        """Natural logarithms, of the model's own distribution."""
        return self._floats()[:, 0]

    @property
    def ranks(self) -> Ints:
        """1 for the likeliest token."""
        return self._records()[:, 1]

    @property
    def tokens(self) -> Ints:
        return self._records()[:, 2::2]

    @property
    def others(self) -> Floats:
        return self._floats()[:, 3::2]

    def _records(self) -> Ints:
        return np.frombuffer(self.data, dtype="<i4").reshape(self.count, -1)

    def _floats(self) -> Floats:
        return np.frombuffer(self.data, dtype="<f4").reshape(self.count, -1)

    def fault(self, first: int, count: int, alternatives: int, vocab_size: int) -> str | None:
        """What is wrong with scores that a peer sent for so many tokens from `first` on; None if nothing is."""
        if self.alternatives != alternatives or len(self.data) != count * self.record_bytes:
            return f"{len(self.data)} bytes of scores came for {count} tokens"
        if self.first != first:
            return f"scores from {self.first} on came where those from {first} on were due"
        logprobs, tokens, ranks = (
            self._floats()[:, [0, *range(3, 3 + 2 * alternatives, 2)]],
            self.tokens,
            self.ranks,
        )
        if not bool((logprobs <= ROUNDING).all()) or not bool(np.isfinite(logprobs).all()):
            return "a log probability of a prompt is none"
        if bool((tokens < 0).any() or (tokens >= vocab_size).any() or (ranks < 1).any() or (ranks > vocab_size).any()):
            return "a score names a token that is not in the vocabulary"
        return None
