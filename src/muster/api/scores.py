"""Log probabilities in the two styles of the OpenAI API. Knows tokens and numbers, no requests."""

from collections.abc import Sequence
from typing import Any

from muster.api.generate import ScoredToken
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


def completion_scores(tokenizer: Tokenizer, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    texts = [tokenizer.display(token.sampled.token)[0] for token in tokens]
    chosen = [_finite(token.sampled.logprob) for token in tokens]
    # The chosen token is always among those shown, as in the OpenAI API.
    top = [
        {text: logprob} | {tokenizer.display(other.token)[0]: _finite(other.logprob) for other in token.sampled.top}
        for token, text, logprob in zip(tokens, texts, chosen, strict=True)
    ]
    return {
        "tokens": texts,
        "token_logprobs": chosen,
        "top_logprobs": top,
        "text_offset": [token.start for token in tokens],
    }


def _score(tokenizer: Tokenizer, id: int, logprob: float | None) -> dict[str, Any]:
    text, data = tokenizer.display(id)
    return {"token": text, "logprob": _finite(logprob), "bytes": data}


def _finite(logprob: float | None) -> float:
    # `not (a >= b)` rather than `a < b`: NaN is no JSON either.
    return _IMPOSSIBLE if logprob is None or not (logprob >= _IMPOSSIBLE) else logprob
