"""The stock OpenAI client against a pool of four stages: what it gets is what one machine would have said."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI
from transformers import PreTrainedModel

from tests.flows.live_pool import LivePool, engines

HELLO = [{"role": "user", "content": "Say something about foxes."}]
PROMPT = "def main(): return"


@pytest.fixture
def model(pool: LivePool) -> str:
    return pool.model.shape.name


def test_the_model_is_split_over_four_machines_none_of_which_holds_it_alone(pool: LivePool) -> None:
    stages = pool.route().pipeline.stages
    assert [(stage.first, stage.last) for stage in stages] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert len({stage.node for stage in stages}) == 4


def test_a_chat_is_answered_and_counted(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=12, temperature=0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_completion_is_what_the_whole_model_would_say(
    client: OpenAI, model: str, pool: LivePool, dense: PreTrainedModel
) -> None:
    tokenizer = pool.model.tokenizer
    prompt = torch.tensor([tokenizer.encode(PROMPT)])
    expected = dense.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24, pad_token_id=0
    )
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, temperature=0)
    new = [token for token in expected[0, prompt.shape[1] :].tolist() if token not in tokenizer.end_of_text_ids]
    assert answer.choices[0].text == tokenizer.decode(new)


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_a_stream_is_the_whole_answer_in_pieces_and_ends_with_the_usage(client: OpenAI, model: str, kind: str) -> None:
    ask = {"model": model, "max_tokens": 20, "temperature": 0}
    more = {"stream": True, "stream_options": {"include_usage": True}}
    if kind == "chat":
        whole = client.chat.completions.create(messages=HELLO, **ask).choices[0].message.content
        chunks = list(client.chat.completions.create(messages=HELLO, **ask, **more))
        pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    else:
        whole = client.completions.create(prompt=PROMPT, **ask).choices[0].text
        chunks = list(client.completions.create(prompt=PROMPT, **ask, **more))
        pieces = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1].usage.completion_tokens == 20
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stop_string_ends_the_answer_before_it_and_frees_the_pool(client: OpenAI, model: str, pool: LivePool) -> None:
    ask = {"model": model, "prompt": PROMPT, "temperature": 1.0, "seed": 3}
    text = client.completions.create(**ask, max_tokens=30).choices[0].text
    stop = text[8:10]
    answer = client.completions.create(**ask, max_tokens=400, stop=[stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    pool.until_idle()


def test_log_probabilities_are_those_of_the_whole_model(
    client: OpenAI, model: str, pool: LivePool, dense: PreTrainedModel
) -> None:
    prompt = pool.model.tokenizer.encode(PROMPT)
    with torch.inference_mode():
        expected = dense(torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1).topk(5).values
    scores = client.completions.create(model=model, prompt=prompt, max_tokens=3, temperature=0, logprobs=5)
    first = scores.choices[0].logprobs
    assert len(first.tokens) == len(first.token_logprobs) == 3
    assert math.isclose(first.token_logprobs[0], float(expected[0]), abs_tol=1e-4)
    assert sorted(first.top_logprobs[0].values(), reverse=True)[0] == pytest.approx(float(expected[0]), abs=1e-4)


def test_the_same_seed_gives_the_same_text_alone_and_among_others(client: OpenAI, model: str) -> None:
    def text(seed: int) -> str:
        ask = {"model": model, "messages": HELLO, "max_tokens": 16, "temperature": 1.0}
        return client.chat.completions.create(seed=seed, **ask).choices[0].message.content

    alone = [text(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(text, [0, 1, 2, 3, 0, 1, 2, 3]))
    assert together == alone + alone
    assert len(set(alone)) == 4


def test_n_choices_differ_and_the_first_is_what_one_alone_would_be(client: OpenAI, model: str) -> None:
    ask = {"model": model, "prompt": PROMPT, "max_tokens": 12, "seed": 5, "temperature": 1.0}
    four = client.completions.create(n=4, **ask)
    assert [choice.index for choice in four.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in four.choices}) == 4
    assert four.choices[0].text == client.completions.create(**ask).choices[0].text
    assert four.usage.completion_tokens == 48


def test_closing_a_stream_frees_its_slot_and_its_pages(client: OpenAI, model: str, pool: LivePool) -> None:
    (engine,) = engines(pool.serving(0))
    pool.until_idle()
    before = engine.stats()
    stream = client.completions.create(
        model=model, prompt="x", max_tokens=450, stream=True, extra_body={"ignore_eos": True}
    )
    assert len(list(islice(stream, 3))) == 3
    assert engine.stats().running == 1
    stream.close()
    pool.until_idle()
    after = engine.stats()
    assert (after.running, after.waiting, after.in_flight) == (0, 0, 0)
    assert after.available_pages == before.available_pages == after.num_pages
    assert after.generated_tokens - before.generated_tokens < 400, "it went on for nobody"


def test_giving_up_on_a_whole_answer_cancels_all_its_choices(client: OpenAI, model: str, pool: LivePool) -> None:
    with pytest.raises(Exception, match="timed out"):
        client.with_options(timeout=0.5).completions.create(
            model=model, prompt="x", n=8, max_tokens=450, extra_body={"ignore_eos": True}
        )
    pool.until_idle()
    assert pool.sessions.state.live == {}


@pytest.mark.parametrize("key", ["sk-wrong", "muster-" + "x" * 40])
def test_a_wrong_key_is_refused(pool: LivePool, model: str, key: str) -> None:
    with pytest.raises(AuthenticationError, match="ask its operator for a key") as caught:
        pool.client(key).completions.create(model=model, prompt="x")
    assert caught.value.code == "invalid_api_key"


def test_too_long_a_prompt_is_refused_with_both_numbers(client: OpenAI, model: str) -> None:
    with pytest.raises(BadRequestError, match=r"600 tokens, but the context .* holds 512") as caught:
        client.completions.create(model=model, prompt=[5] * 600)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 3.0), ("top_p", 0.0), ("n", 0), ("max_tokens", 0), ("logprobs", 99)]
)
def test_sampling_that_is_out_of_range_names_the_parameter(
    client: OpenAI, model: str, field: str, value: float
) -> None:
    with pytest.raises(BadRequestError, match=field) as caught:
        client.completions.create(model=model, prompt="x", **{field: value})
    assert caught.value.param == field


def test_an_unknown_model_and_an_unknown_field_are_named(client: OpenAI, model: str) -> None:
    with pytest.raises(NotFoundError, match="gpt-4"):
        client.completions.create(model="gpt-4", prompt="x")
    answer = client.completions.with_raw_response.create(model=model, prompt="x", extra_body={"tempratur": 1})
    assert answer.headers["X-Muster-Ignored-Fields"] == "tempratur"


def test_sixty_four_streams_at_once_are_all_what_they_would_be_alone(
    client: OpenAI, model: str, pool: LivePool
) -> None:
    def read(index: int) -> str:
        stream = client.completions.create(
            model=model,
            prompt="fox " * (1 + index % 7) + str(index),
            seed=index,
            temperature=index % 2,
            max_tokens=24,
            stream=True,
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    started = time.monotonic()
    with ThreadPoolExecutor(64) as threads:
        together = list(threads.map(read, range(64)))
    assert time.monotonic() - started < 60
    assert [read(index) for index in (0, 1, 37, 63)] == [together[index] for index in (0, 1, 37, 63)]
    assert pool.sessions.state.resubmissions == 0
