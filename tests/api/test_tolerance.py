"""What real clients send besides what they mean: off-values, other names, slashes; all of it does what was meant."""

from typing import Any

import pytest

from muster.api.chat_fields import ChatRequest
from muster.api.serving import ServingOptions
from muster.spec.request import Priority
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.served import Served

HELLO = [{"role": "user", "content": "Hello"}]
TEXT: dict[str, Any] = {"model": "fake", "prompt": "x", "max_tokens": 3}


def asked(served: Served, **fields: Any) -> Any:
    """The request that reached the pool."""
    answer = served.http.post("/v1/completions", json=TEXT | fields)
    assert answer.status_code == 200, answer.text
    return served.backend.requests[-1]


def test_values_that_switch_something_off_are_understood(served: Served) -> None:
    neutral = {
        "top_k": -1, "best_of": 1, "use_beam_search": False, "length_penalty": 1.0, "skip_special_tokens": True,
        "early_stopping": False, "spaces_between_special_tokens": True, "include_stop_str_in_output": False,
        "repeat_penalty": 1.0, "mirostat": 0, "service_tier": "gold", "model": None, "seed": 5,
    }  # fmt: skip
    assert asked(served, **neutral).sampling == asked(served, seed=5).sampling
    assert len({asked(served, seed=-1).sampling.seed for _ in range(3)}) == 3


def test_fields_of_a_chat_that_change_nothing_are_accepted(served: Served) -> None:
    said = [*HELLO, {"role": "assistant", "content": None}, *HELLO]
    body = {"messages": said, "store": True, "prediction": {"type": "content", "content": "x"}, "top_logprobs": 0}
    body |= {"reasoning_effort": "high", "verbosity": "medium", "max_tokens": 1}
    assert served.http.post("/v1/chat/completions", json=body).status_code == 200


def test_effort_is_handed_to_the_template() -> None:
    def variables(**fields: Any) -> dict[str, Any]:
        return dict(ChatRequest(messages=HELLO, **fields).template_variables)

    assert variables(reasoning_effort="low") == {"reasoning_effort": "low"}
    assert variables(reasoning_effort="none")["enable_thinking"] is False
    own = variables(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert own["enable_thinking"] is True


def test_no_number_of_tokens_is_all_that_there_is_room_for(served: Served) -> None:
    room = served.backend.max_context - 1
    assert asked(served, max_tokens=-1, temperature=0).sampling.max_tokens == room
    assert asked(served, max_tokens=None, temperature=0).sampling.max_tokens == 16
    for name in ("max_tokens", "max_completion_tokens"):
        body = {"messages": HELLO, name: -1, "temperature": 0}
        assert served.http.post("/v1/chat/completions", json=body).status_code == 200
        assert served.backend.requests[-1].sampling.max_tokens > 400


@pytest.mark.parametrize(
    ("priority", "means"),
    [(0, Priority.INTERACTIVE), (-5, Priority.INTERACTIVE), (7, Priority.OFFLINE), ("offline", Priority.OFFLINE)],
)
def test_priority_may_be_a_number(served: Served, priority: Any, means: Priority) -> None:
    assert asked(served, priority=priority).priority == means


def test_a_minimum_length_puts_off_all_that_ends_an_answer(served: Served) -> None:
    tokenizer = served.backend.tokenizer
    sampling = asked(served, min_tokens=2, stop_token_ids=[5]).sampling
    assert sampling.min_tokens == 2
    assert {5, *tokenizer.end_of_text_ids} <= {*sampling.stop_token_ids}
    assert asked(served, min_tokens=2, ignore_eos=True, stop_token_ids=[5]).sampling.stop_token_ids == (5,)
    assert asked(served, stop_token_ids=[5]).sampling.stop_token_ids == (5,)
    script = {**TEXT, "max_tokens": 60, "temperature": 0, "stop": ["pool", "STOP"]}
    answers = [served.http.post("/v1/completions", json=script | {"min_tokens": least}).json() for least in (0, 6)]
    assert answers[0]["choices"][0]["text"] == "The "
    assert "pool" in answers[1]["choices"][0]["text"]


def test_more_stop_strings_than_four_are_watched_for(served: Served) -> None:
    stops = [f"never{i}" for i in range(30)] + ["STOP"]
    answer = served.http.post("/v1/completions", json=TEXT | {"stop": stops, "temperature": 0, "max_tokens": 100})
    assert answer.json()["choices"][0]["text"].endswith("then ")


def test_every_chunk_counts_where_asked(served: Served) -> None:
    with served.client() as client:
        options = {"include_usage": True, "continuous_usage_stats": True}
        for stream in (
            client.completions.create(**TEXT, stream=True, stream_options=options),
            client.chat.completions.create(
                model="fake", messages=HELLO, max_tokens=3, stream=True, stream_options=options
            ),
        ):
            chunks = list(stream)
            counts = [chunk.usage.completion_tokens for chunk in chunks]
            assert counts == sorted(counts)
            assert (counts[-1], len(chunks[-1].choices)) == (3, 0)


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models//", "/v1/models/fake/"])
def test_slashes_too_many_change_nothing(served: Served, path: str) -> None:
    assert served.http.get(served.url + path).json() == served.http.get(path.strip("/").replace("//", "/")).json()
    assert served.http.post("/v1/completions/", json=TEXT).status_code == 200


def test_a_model_has_the_names_that_the_operator_gives(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), ServingOptions(model_names=("gpt-4o", "org/best"))) as served:
        listed = served.http.get("/v1/models").json()["data"]
        assert [(model["id"], model["root"]) for model in listed] == [("gpt-4o", "fake"), ("org/best", "fake")]
        for name, shown in {"gpt-4o": "gpt-4o", "org/best": "org/best", "fake": "gpt-4o"}.items():
            assert served.http.get(f"/v1/models/{name}").json()["id"] == shown
            assert served.http.post("/v1/completions", json=TEXT | {"model": name}).json()["model"] == "gpt-4o"
        unknown = served.http.post("/v1/completions", json=TEXT | {"model": "gpt-5"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
