"""What a client gets that asks how likely its prompt is."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from muster.api.prompt import MAX_SCORES
from muster.text.tokenizer import Tokenizer
from tests.api.served import Served

PROMPT = "a café 🦀 in words"


@pytest.fixture
def ids(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(PROMPT)


def scored(client: OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": "fake", "prompt": PROMPT, "temperature": 0, **fields}).choices[0]


@pytest.mark.parametrize("as_ids", [True, False])
def test_an_echo_with_log_probabilities_scores_the_prompt_and_what_follows(
    client: OpenAI, tokenizer: Tokenizer, ids: list[int], as_ids: bool
) -> None:
    choice = scored(client, prompt=ids if as_ids else PROMPT, echo=True, logprobs=2, max_tokens=3)
    logprobs = choice.logprobs
    assert choice.text.startswith(PROMPT)
    assert len(logprobs.tokens) == len(ids) + 3
    assert logprobs.token_logprobs[: len(ids)] == [None, *(-float(i) for i in range(1, len(ids)))]
    assert logprobs.top_logprobs[0] is None
    assert all(1 <= len(top) <= 3 for top in logprobs.top_logprobs[1:])
    assert logprobs.text_offset[len(ids)] == len(PROMPT)
    whole = [token for token in logprobs.tokens if not token.startswith("bytes:")]
    assert all(
        choice.text[at:].startswith(token)
        for token, at in zip(logprobs.tokens, logprobs.text_offset, strict=True)
        if token in whole
    )


def test_a_prompt_is_scored_without_a_token_more(client: OpenAI, ids: list[int]) -> None:
    choice = scored(client, echo=True, logprobs=1, max_tokens=0)
    assert (choice.text, choice.finish_reason, len(choice.logprobs.tokens)) == (PROMPT, "length", len(ids))
    silent = scored(client, echo=True, max_tokens=0)
    assert (silent.text, silent.logprobs) == (PROMPT, None)


def test_the_token_that_ends_a_text_counts_where_tokens_are_counted(
    client: OpenAI, tokenizer: Tokenizer, ids: list[int], served: Served
) -> None:
    served.backend.script = "end"
    answer = len(tokenizer.encode("end")) + 1
    choice = scored(client, echo=True, logprobs=1, max_tokens=50)
    assert len(choice.logprobs.tokens) == len(ids) + answer
    assert choice.text == PROMPT + "end"
    assert choice.logprobs.text_offset[-1] == len(choice.text)


def test_several_prompts_and_a_stream_are_scored_alike(client: OpenAI, ids: list[int]) -> None:
    fields = {"model": "fake", "temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 2}
    answer = client.completions.create(prompt=[PROMPT, "x"], **fields)
    chunks = client.completions.create(prompt=[PROMPT, "x"], stream=True, **fields)
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    for choice in answer.choices:
        mine = [piece for piece in pieces if piece.index == choice.index]
        assert "".join(piece.text for piece in mine) == choice.text
        assert [lp for piece in mine for lp in piece.logprobs.token_logprobs] == choice.logprobs.token_logprobs


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_prompt_logprobs_come_as_from_vllm(client: OpenAI, kind: str, served: Served) -> None:
    if kind == "chat":
        messages: Any = [{"role": "user", "content": "hello"}]
        answer: Any = client.chat.completions.create(
            model="fake", messages=messages, n=2, max_tokens=2, extra_body={"prompt_logprobs": 2}
        )
        scores, logprobs = answer.prompt_logprobs, answer.choices[0].logprobs
        assert [one.sampling.prompt_logprobs for one in served.backend.requests] == [2, None], "a prompt counts once"
    else:
        choice = scored(client, max_tokens=2, extra_body={"prompt_logprobs": 2})
        scores, logprobs = choice.prompt_logprobs, choice.logprobs
    prompt = served.backend.requests[0].prompt
    assert logprobs is None
    assert scores[0] is None
    assert len(scores) == len(prompt)
    third = scores[3]
    assert third[str(prompt[3])]["logprob"] == -3.0
    assert third[str(prompt[3])]["rank"] == 3
    assert third["0"]["rank"] == 1 or prompt[3] == 0
    assert set(third) == {"0", "1", str(prompt[3])}


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"extra_body": {"prompt_logprobs": 2}, "stream": True}, "prompt_logprobs"),
        ({"extra_body": {"prompt_logprobs": 21}}, "prompt_logprobs"),
        ({"extra_body": {"prompt_logprobs": -1}}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5, "echo": True}, "max_tokens"),
        ({"prompt": [[1] * 400] * 64, "echo": True, "logprobs": 20}, "prompt"),
    ],
)
def test_scores_that_nobody_could_hold_are_refused(client: OpenAI, fields: dict[str, Any], parameter: str) -> None:
    assert MAX_SCORES < 400 * 64 * 21
    with pytest.raises(BadRequestError) as caught:
        scored(client, **fields)
    assert caught.value.param == parameter
