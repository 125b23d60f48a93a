"""Log probabilities in the two styles of the OpenAI API. Knows tokens and numbers, no requests."""

from collections.abc import Sequence
from typing import Any

from muster.api.generate import ScoredToken
from muster.spec.request import Sampled
from muster.text.tokenizer import Tokenizer

_IMPOSSIBLE = -9999.0
"""What the OpenAI API writes for minus infinity, which JSON cannot hold."""


def chat_scores(tokenizer: Tokenizer, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    content = [
        {
            **_score(tokenizer, token.sampled.token, token.sampled.logprob),
            "top_logprobs": [_score(tokenizer, other.token, other.logprob) for other in token.sampled.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_scores(tokenizer: Tokenizer, tokens: Sequence[ScoredToken], kept: int) -> dict[str, Any]:
    """With the `kept` best alternatives of each."""
    return {
        "tokens": [tokenizer.display(token.sampled.token)[0] for token in tokens],
        "token_logprobs": [None if token.is_first else _finite(token.sampled.logprob) for token in tokens],
        "top_logprobs": [None if token.is_first else _by_text(tokenizer, token.sampled, kept) for token in tokens],
        "text_offset": [token.start for token in tokens],
    }


def _by_text(tokenizer: Tokenizer, sampled: Sampled, kept: int) -> dict[str, float]:
    """The chosen token is always among those shown, as in the OpenAI API. Of tokens that look alike the best counts."""
    shown = {tokenizer.display(sampled.token)[0]: _finite(sampled.logprob)}
    for other in sampled.top[:kept]:
        shown.setdefault(tokenizer.display(other.token)[0], _finite(other.logprob))
    return shown


def prompt_scores(tokenizer: Tokenizer, tokens: Sequence[ScoredToken], kept: int) -> list[dict[str, Any] | None]:
    """In the style of vLLM: for each token of a prompt the `kept` best and the token itself, by their ids."""

    def entry(id: int, logprob: float | None, rank: int | None) -> dict[str, Any]:
        return {"logprob": _finite(logprob), "rank": rank, "decoded_token": tokenizer.display(id)[0]}

    def entries(token: ScoredToken) -> dict[str, Any]:
        best = {str(o.token): entry(o.token, o.logprob, rank) for rank, o in enumerate(token.sampled.top[:kept], 1)}
        return best | {str(token.sampled.token): entry(token.sampled.token, token.sampled.logprob, token.rank)}

    return [None if token.is_first else entries(token) for token in tokens]


def _score(tokenizer: Tokenizer, id: int, logprob: float | None) -> dict[str, Any]:
    text, data = tokenizer.display(id)
    return {"token": text, "logprob": _finite(logprob), "bytes": data}


def _finite(logprob: float | None) -> float:
    # `not (a >= b)` rather than `a < b`: NaN is no JSON either.
    return _IMPOSSIBLE if logprob is None or not (logprob >= _IMPOSSIBLE) else logprob
