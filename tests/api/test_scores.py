"""Log probabilities that JSON can hold."""

import json

import pytest

from muster.api.generate import ScoredToken
from muster.api.scores import chat_scores, completion_scores
from muster.spec.request import Sampled, TokenLogprob
from muster.text.tokenizer import Tokenizer


@pytest.mark.parametrize("logprob", [None, float("-inf"), float("nan"), -1e30])
def test_what_json_cannot_hold_is_written_as_the_openai_api_writes_it(
    tokenizer: Tokenizer, logprob: float | None
) -> None:
    token = ScoredToken(Sampled(5, logprob, (TokenLogprob(6, float("-inf")),)), 0)
    for scores in (chat_scores(tokenizer, [token]), completion_scores(tokenizer, [token], 1)):
        written = json.dumps(scores, allow_nan=False)
        assert written.count("-9999.0") >= 2
