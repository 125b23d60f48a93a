"""What the stock `openai` client sees."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import APIError, AuthenticationError, BadRequestError, NotFoundError, OpenAI

from muster.errors import PoolUnavailable
from muster.spec.request import Priority
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import SCRIPT, FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served, eventually

HELLO = [{"role": "user", "content": "Hello"}]


def test_a_chat_gets_an_answer_with_usage(client: OpenAI, tokenizer: Tokenizer) -> None:
    answer = client.chat.completions.create(model="fake", messages=HELLO, temperature=0)
    assert answer.choices[0].message.content == SCRIPT
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokenizer.encode("User: Hello\n\nAssistant:"))
    assert answer.usage.completion_tokens == len(tokenizer.encode(SCRIPT)) + 1  # the end-of-text token counts
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id in answer.id


def test_a_completion_stops_at_its_length(client: OpenAI, tokenizer: Tokenizer) -> None:
    answer = client.completions.create(model="fake", prompt="Once", max_tokens=5, temperature=0)
    assert answer.choices[0].text == tokenizer.decode(tokenizer.encode(SCRIPT)[:5])
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_a_completion_has_sixteen_tokens_unless_asked_otherwise(client: OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="Once", seed=1)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_a_chat_without_a_limit_may_fill_the_context(client: OpenAI, served: Served) -> None:
    answer = client.chat.completions.create(model="fake", messages=HELLO, seed=1)
    assert answer.usage is not None
    assert answer.usage.total_tokens == served.backend.max_context
    assert answer.choices[0].finish_reason == "length"


def test_a_streamed_chat_is_the_same_text_in_pieces(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="fake", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(text) == SCRIPT
    assert len([piece for piece in text if piece]) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_streamed_completion_is_the_same_text_in_pieces(client: OpenAI) -> None:
    stream = client.completions.create(model="fake", prompt="x", max_tokens=200, temperature=0, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == SCRIPT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is None


@pytest.mark.parametrize("stop", ["STOP", ["nowhere", "STOP"], [" then STOP", "café 🦀, then ST!"]])
def test_a_stop_string_ends_the_text_before_it_and_cancels_the_rest(
    client: OpenAI, served: Served, stop: str | list[str]
) -> None:
    wanted = SCRIPT.partition(" then STOP" if "then" in stop[0] else "STOP")[0]
    for stream in (False, True):
        answer = client.chat.completions.create(model="fake", messages=HELLO, temperature=0, stop=stop, stream=stream)
        if stream:
            chunks = list(answer)  # type: ignore[call-overload]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            assert answer.choices[0].message.content == wanted
            assert answer.choices[0].finish_reason == "stop"
    assert len(served.backend.cancelled) == 2


def test_a_stop_token_is_not_part_of_the_text(client: OpenAI, tokenizer: Tokenizer) -> None:
    comma = tokenizer.encode(SCRIPT).index(tokenizer.encode(",")[0])
    answer = client.completions.create(
        model="fake", prompt="x", max_tokens=200, temperature=0, extra_body={"stop_token_ids": tokenizer.encode(",")}
    )
    assert answer.choices[0].text == tokenizer.decode(tokenizer.encode(SCRIPT)[:comma])
    assert answer.choices[0].finish_reason == "stop"


def test_chat_log_probabilities_spell_the_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=HELLO, temperature=0, logprobs=True, top_logprobs=2)
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert b"".join(bytes(token.bytes or []) for token in scores.content).decode() == SCRIPT
    assert all(len(token.top_logprobs) == 2 for token in scores.content)
    assert {token.logprob for token in scores.content} == {-0.5, -9999.0}
    assert scores.content[0].top_logprobs[0].token == "<|endoftext|>"


def test_streamed_log_probabilities_come_with_their_text_and_only_up_to_the_stop(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="fake", messages=HELLO, temperature=0, logprobs=True, stop="STOP", stream=True
    )
    text, spelled = "", b""
    for chunk in stream:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        for token in choice.logprobs.content or [] if choice.logprobs else []:
            spelled += bytes(token.bytes or [])
        if chunk.choices[0].finish_reason is None:
            assert spelled.startswith(text.encode()) or text.encode().startswith(spelled)
    assert text == SCRIPT.partition("STOP")[0]
    assert spelled.decode().startswith(text)
    assert not spelled.decode().removeprefix(text).startswith("STOP")


def test_completion_log_probabilities_have_offsets_into_the_text(client: OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="x", max_tokens=30, temperature=0, logprobs=1)
    scores, text = answer.choices[0].logprobs, answer.choices[0].text
    assert scores is not None
    assert scores.tokens is not None
    assert scores.text_offset is not None
    assert scores.top_logprobs is not None
    assert len(scores.tokens) == len(scores.text_offset) == len(scores.top_logprobs) == 30
    for token, offset in zip(scores.tokens, scores.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert text[offset:].startswith(token)
    assert set(scores.top_logprobs[0]) == {scores.tokens[0], "<|endoftext|>"}


def test_the_same_seed_gives_the_same_text_and_another_seed_another(client: OpenAI) -> None:
    def text(seed: int | None) -> str:
        answer = client.chat.completions.create(model="fake", messages=HELLO, seed=seed, max_tokens=20)
        return answer.choices[0].message.content or ""

    assert text(7) == text(7)
    assert text(7) != text(8)
    assert text(None) != text(None)


@pytest.mark.parametrize("stream", [False, True])
def test_choices_differ_and_the_first_is_what_one_alone_would_be(client: OpenAI, stream: bool) -> None:
    alone = client.completions.create(model="fake", prompt="x", seed=3, max_tokens=12)
    if stream:
        texts = ["", "", "", ""]
        for chunk in client.completions.create(model="fake", prompt="x", seed=3, max_tokens=12, n=4, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        four = client.completions.create(model="fake", prompt="x", seed=3, max_tokens=12, n=4)
        texts = [choice.text for choice in four.choices]
        assert [choice.index for choice in four.choices] == [0, 1, 2, 3]
        assert four.usage is not None
        assert four.usage.completion_tokens == 48
        assert alone.usage is not None
        assert four.usage.prompt_tokens == alone.usage.prompt_tokens
    assert texts[0] == alone.choices[0].text
    assert len(set(texts)) == 4


def test_prompts_may_be_texts_or_ids_one_or_many(client: OpenAI, served: Served, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Once upon")
    client.completions.create(model="fake", prompt="Once upon", max_tokens=1)
    client.completions.create(model="fake", prompt=ids, max_tokens=1)
    assert {request.prompt for request in served.backend.requests} == {tuple(ids)}
    many = client.completions.create(model="fake", prompt=["a", "b", "c"], n=2, max_tokens=3, seed=1)
    assert [choice.index for choice in many.choices] == list(range(6))
    assert many.choices[0].text == many.choices[2].text  # a prompt's choices do not depend on where it stands
    client.completions.create(model="fake", prompt=[ids, ids[:2]], max_tokens=1)
    assert served.backend.requests[-1].prompt in (tuple(ids), tuple(ids[:2]))


def test_an_empty_prompt_begins_with_the_end_of_text_token(client: OpenAI, served: Served) -> None:
    client.completions.create(model="fake", prompt="", max_tokens=1)
    assert served.backend.requests[0].prompt == (0,)


def test_echo_puts_the_prompt_before_the_output(client: OpenAI, tokenizer: Tokenizer) -> None:
    for prompt in ("Once upon", tokenizer.encode("Once upon")):
        answer = client.completions.create(model="fake", prompt=prompt, echo=True, max_tokens=200, temperature=0)
        assert answer.choices[0].text == "Once upon" + SCRIPT


def test_flex_and_offline_requests_wait_for_the_others(client: OpenAI, served: Served) -> None:
    client.completions.create(model="fake", prompt="x", max_tokens=1)
    client.completions.create(model="fake", prompt="x", max_tokens=1, extra_body={"priority": "offline"})
    client.chat.completions.create(model="fake", messages=HELLO, max_tokens=1, service_tier="flex")
    priorities = [request.priority for request in served.backend.requests]
    assert priorities == [Priority.INTERACTIVE, Priority.OFFLINE, Priority.OFFLINE]


def test_every_sampling_parameter_reaches_the_backend(client: OpenAI, served: Served) -> None:
    client.chat.completions.create(
        model="fake", messages=HELLO, max_completion_tokens=3, temperature=0.5, top_p=0.9, presence_penalty=0.1,
        frequency_penalty=0.2, logit_bias={"5": -3}, seed=11, logprobs=True, top_logprobs=4,
        extra_body={"top_k": 7, "min_p": 0.05, "repetition_penalty": 1.1, "stop_token_ids": [9], "ignore_eos": True},
    )  # fmt: skip
    sampling = served.backend.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (3, 0.5, 0.9, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.05, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.1, 0.2)
    assert (sampling.logit_bias, sampling.seed, sampling.logprobs) == ({5: -3.0}, 11, 4)
    assert (sampling.stop_token_ids, sampling.ignore_eos) == ((9,), True)


def test_the_pools_model_is_listed_and_no_other_is_known(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "muster"
    with pytest.raises(NotFoundError, match="serves the model 'fake', not 'org/other'") as caught:
        client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError, match="ask for 'fake'"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_closing_a_stream_cancels_the_request(client: OpenAI, served: Served) -> None:
    served.backend.delay_s = 0.02
    stream = client.chat.completions.create(model="fake", messages=HELLO, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    assert eventually(lambda: served.backend.running == 0)
    assert len(served.backend.cancelled) == 1


def test_giving_up_on_a_whole_answer_cancels_all_its_choices_before_their_first_token(served: Served) -> None:
    served.backend.delay_s = 30
    with served.client() as client, pytest.raises(APIError):
        client.with_options(timeout=0.3).completions.create(model="fake", prompt="x", n=3)
    assert eventually(lambda: served.backend.running == 0)
    assert len(served.backend.cancelled) == 3


def test_sixty_four_streams_at_once_are_all_whole(client: OpenAI, served: Served) -> None:
    served.backend.delay_s = 0.02

    def read(seed: int) -> str:
        stream = client.completions.create(model="fake", prompt=f"{seed}", seed=seed, max_tokens=40, stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(64) as threads:
        texts = list(threads.map(read, range(64)))
    assert served.backend.most_running == 64
    served.backend.delay_s = 0
    alone = [client.completions.create(model="fake", prompt="x", seed=seed, max_tokens=40) for seed in (0, 31, 63)]
    assert [texts[0], texts[31], texts[63]] == [answer.choices[0].text for answer in alone]
    assert len(set(texts)) == 64


def test_an_error_before_the_first_token_keeps_its_status_even_in_a_stream(client: OpenAI, served: Served) -> None:
    served.backend.fail_at = (0, PoolUnavailable("No pipeline can serve now; start more nodes."))
    for stream in (False, True):
        with pytest.raises(APIError, match="start more nodes") as caught:
            client.chat.completions.create(model="fake", messages=HELLO, stream=stream)
        assert caught.value.code == "pool_unavailable"
        assert getattr(caught.value, "status_code", None) == 503


def test_an_error_in_mid_stream_is_an_event_of_the_stream(client: OpenAI, served: Served) -> None:
    served.backend.fail_at = (4, PoolUnavailable("The pool lost its machines; try again."))
    stream = client.chat.completions.create(model="fake", messages=HELLO, temperature=0, stream=True)
    with pytest.raises(APIError, match="lost its machines") as caught:
        list(stream)
    assert caught.value.code == "pool_unavailable"
    raw = served.http.post(
        "/v1/chat/completions", json={"model": "fake", "messages": HELLO, "stream": True, "temperature": 0}
    )
    assert raw.text.rstrip().splitlines()[-1].startswith('data: {"error": {"message": "The pool lost')


def test_one_failing_choice_fails_the_answer_and_cancels_the_others(client: OpenAI, served: Served) -> None:
    served.backend.delay_s = 0.01
    served.backend.fail_at = (3, PoolUnavailable("Gone; try again."))
    with pytest.raises(APIError, match="Gone"):
        client.completions.create(model="fake", prompt="x", n=4)
    assert served.backend.running == 0


def test_a_wrong_key_is_refused_and_the_right_one_let_in(tokenizer: Tokenizer) -> None:
    keys = FakeKeys({"sk-good": FakeRecord("k1")})
    with Served(FakeBackend(tokenizer), keys=keys) as served:
        for wrong in ("sk-bad", "x" * 600):
            with served.client(wrong) as client, pytest.raises(AuthenticationError) as caught:
                client.chat.completions.create(model="fake", messages=HELLO)
            assert caught.value.code == "invalid_api_key"
        with served.client("sk-good") as client:
            client.chat.completions.create(model="fake", messages=HELLO, temperature=0)
        assert eventually(lambda: len(keys.usage) == 1)
        assert keys.usage[0][0] == "k1"


def test_too_long_a_prompt_is_refused_with_both_numbers(client: OpenAI, served: Served) -> None:
    with pytest.raises(BadRequestError, match=r"has 600 tokens, but the context of 'fake' holds 512") as caught:
        client.completions.create(model="fake", prompt=[5] * 600)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"
    with pytest.raises(BadRequestError, match="context") as caught:
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "word " * 2000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    with pytest.raises(BadRequestError, match="has 500 tokens and 20 more are asked for") as caught:
        client.completions.create(model="fake", prompt=[5] * 500, max_tokens=20)
    assert served.backend.requests == []
