"""From what a request says to token ids: which ids a model has, which words reach it, and who waits meanwhile."""

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.api.fake_backend import FakeBackend
from tests.api.served import Served
from tests.text.converted_here import convert_here
from tests.text.small_tokenizers import Converted, save, train_byte_level

PADDING = 64


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    tokenizer = train_byte_level()
    tokenizer.add_special_tokens(["<|im_end|>"])
    folder = save(tokenizer, tmp_path_factory.mktemp("tokenizers") / "model")
    return Converted(folder, *convert_here(folder))


def ask(served: Served, **fields: Any) -> Any:
    path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    return served.http.post(path, json={"model": "fake", "temperature": 0, "max_tokens": 4} | fields)


@pytest.mark.parametrize("change", [{}, {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}])
def test_ids_are_those_that_the_model_has_a_row_for(converted: Converted, change: dict[str, Any]) -> None:
    backend = FakeBackend(converted.tokenizer(**change))
    entries = backend.tokenizer.vocabulary_size
    backend.vocab_size = entries + PADDING
    with Served(backend) as served:
        for id in (entries - 1, entries, entries + PADDING - 1):
            for fields in ({"prompt": [5, id]}, {"logit_bias": {str(id): -100}}, {"stop_token_ids": [id]}):
                assert ask(served, **{"prompt": "x"} | fields).status_code == 200, fields
                assert backend.requests[-1].prompt[-1] in (id, *backend.tokenizer.encode("x"))
        for id in (entries + PADDING, -1):
            for fields in ({"prompt": [5, id]}, {"logit_bias": {str(id): -100}}, {"stop_token_ids": [id]}):
                answer = ask(served, **{"prompt": "x"} | fields)
                assert answer.status_code == 400
                assert f"from 0 to {entries + PADDING - 1}" in answer.json()["error"]["message"]
        echoed = ask(served, prompt=[backend.tokenizer.encode("a")[0], entries + 1], echo=True, max_tokens=1)
        assert echoed.json()["choices"][0]["text"].startswith("a")


def test_a_word_that_the_model_was_never_taught_is_named(converted: Converted) -> None:
    backend = FakeBackend(converted.tokenizer())
    backend.vocab_size = backend.tokenizer.encode("<think> ")[0]
    with Served(backend) as served:
        for fields in ({"prompt": "a<think> b"}, {"messages": [{"role": "user", "content": "a<think> b"}]}):
            answer = ask(served, **fields)
            assert answer.status_code == 400
            assert "holds '<think> ', which the tokenizer knows but the model was never taught" in answer.text
        assert ask(served, prompt="a b").status_code == 200


def test_a_stop_string_may_name_a_token_that_is_no_text(converted: Converted) -> None:
    backend = FakeBackend(converted.tokenizer())
    (ends,) = backend.tokenizer.encode("<|im_end|>")
    with Served(backend) as served:
        for fields in ({"prompt": "x"}, {"messages": [{"role": "user", "content": "x"}]}):
            assert ask(served, **fields, stop=["<|im_end|>", "words"], stop_token_ids=[7]).status_code == 200
            assert backend.requests[-1].sampling.stop_token_ids == (7, ends)


def test_an_answer_may_be_empty(converted: Converted) -> None:
    backend = FakeBackend(converted.tokenizer())
    backend.script = ""
    with Served(backend) as served:
        whole = ask(served, messages=[{"role": "user", "content": "x"}], logprobs=True).json()
        assert whole["choices"][0]["message"]["content"] == ""
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert whole["choices"][0]["logprobs"]["content"] == []
        assert whole["usage"]["completion_tokens"] == 1
        (choice,) = ask(served, prompt="x").json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")
        streamed = ask(served, messages=[{"role": "user", "content": "x"}], stream=True).text
        assert '"finish_reason": "stop"' in streamed
        assert streamed.endswith("data: [DONE]\n\n")


THINKING = (
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is false %}|quick{% endif %}{{ style }}"
)


def test_variables_reach_the_chat_template_and_fixed_ones_do_not(converted: Converted) -> None:
    backend = FakeBackend(converted.tokenizer(chat_template=THINKING))
    messages = [{"role": "user", "content": "x"}]
    with Served(backend) as served:
        answer = ask(served, messages=messages, chat_template_kwargs={"enable_thinking": False, "style": "!"})
        assert answer.status_code == 200
        assert backend.tokenizer.decode(backend.requests[-1].prompt) == "x|quick!"
        assert ask(served, messages=messages).status_code == 200
        assert backend.tokenizer.decode(backend.requests[-1].prompt) == "x"
        for wrong in (
            {"messages": "y"},
            {"add_generation_prompt": False},
            {"style": "a" * 10_001},
            {"style": []},
            {str(i): 1 for i in range(17)},
        ):
            answer = ask(served, messages=messages, chat_template_kwargs=wrong)
            assert answer.status_code == 400
            assert "chat_template_kwargs" in answer.json()["error"]["param"]


def test_a_chat_that_the_template_cannot_say_is_refused_and_completions_go_on(converted: Converted) -> None:
    hostile = "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}"
    with Served(FakeBackend(converted.tokenizer(chat_template=hostile))) as served:
        for _ in range(2):
            answer = ask(served, messages=[{"role": "user", "content": "x"}])
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "unsupported"
            assert "so it is not used; send a prompt to /v1/completions" in answer.json()["error"]["message"]
        assert ask(served, prompt="x").status_code == 200
    last_only = "{{ messages[-1].content }}"
    with Served(FakeBackend(converted.tokenizer(chat_template=last_only))) as served:
        two = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "x"}]
        answer = ask(served, messages=two)
        assert answer.status_code == 400
        assert "leaves out messages[0] (from system)" in answer.json()["error"]["message"]
        assert ask(served, messages=two[1:]).status_code == 200


def test_spellings_of_a_folder_are_one_name(converted: Converted) -> None:
    with Served(FakeBackend(converted.tokenizer())) as served:
        for spelling in ("fake/", "./fake", "./fake//"):
            assert ask(served, prompt="x", model=spelling).json()["model"] == "fake"
        assert served.http.get("/v1/models/fake/").json()["id"] == "fake"
        assert ask(served, prompt="x", model="other/").status_code == 404


SLOW = "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t ~ m.content %}{% endfor %}{{ n.t }}"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "the quick brown fox " * 100_000},
        {"prompt": "\U0001f980" * 200_000},
        {"messages": [{"role": "user", "content": "the quick brown fox " * 100_000}]},
        {"messages": [{"role": "user", "content": "a" * 400}] * 4_000},
    ],
    ids=["long prompt", "many tokens", "long message", "many messages"],
)
def test_no_text_holds_up_the_event_loop(converted: Converted, fields: dict[str, Any]) -> None:
    backend = FakeBackend(converted.tokenizer(chat_template=SLOW), max_context=2**21)
    with Served(backend) as served:
        lags: list[float] = []
        stop = threading.Event()

        async def watch() -> None:
            while not stop.is_set():
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                lags.append(time.perf_counter() - before - 0.005)

        watching = asyncio.run_coroutine_threadsafe(watch(), served.loop)
        answer = ask(served, **fields)
        stop.set()
        watching.result()
        assert answer.status_code in (200, 400), answer.text
        print(f"{len(lags)} looks, p99 {sorted(lags)[int(len(lags) * 0.99)]:.3f} s, most {max(lags):.3f} s")
        assert sorted(lags)[int(len(lags) * 0.99)] < 0.1
