"""Ollama's API: lines out, options in, refusals in its shape."""

import json
from typing import Any

import pytest

from muster.errors import PoolUnavailable
from tests.api.served import Served

HELLO = [{"role": "user", "content": "Hello"}]
COLD = {"options": {"temperature": 0}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(autouse=True)
def _room_for_definitions(served: Served) -> None:
    served.backend.max_context = 4096


def lines(served: Served, path: str, **fields: Any) -> list[dict[str, Any]]:
    answer = served.http.post(path, json={"model": "fake:latest"} | COLD | fields)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_chat_comes_a_line_at_a_time(served: Served) -> None:
    told = lines(served, "/api/chat", messages=HELLO)
    assert "".join(line["message"]["content"] for line in told) == served.backend.script
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    assert (told[-1]["done_reason"], told[-1]["prompt_eval_count"] > 0) == ("stop", True)


def test_a_whole_answer_where_no_stream_is_wanted(served: Served) -> None:
    body = {"model": "fake", "prompt": "Hello", "stream": False, "options": {"temperature": 0, "num_predict": 5}}
    answer = served.http.post("/api/generate", json=body).json()
    assert served.backend.script.startswith(answer["response"])
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 5)
    raw = served.http.post("/api/generate", json=body | {"raw": True}).json()
    assert raw["response"] == answer["response"]
    prompts = [served.backend.tokenizer.decode(request.prompt) for request in served.backend.requests]
    assert "User: Hello" in prompts[0]
    assert prompts[1] == "Hello"


def test_a_form_is_held_to(served: Served) -> None:
    for form in ("json", {"type": "object"}):
        lines(served, "/api/chat", messages=HELLO, format=form)
        lines(served, "/api/generate", prompt="Hello", raw=True, format=form)
    assert all(request.sampling.grammar for request in served.backend.requests)


def test_a_call_goes_out_and_its_result_comes_back(served: Served) -> None:
    served.backend.script = CALL
    told = lines(served, "/api/chat", messages=HELLO, tools=TOOLS)
    (call,) = [call for line in told for call in line["message"].get("tool_calls", [])]
    assert call["function"] == {"name": "get_weather", "arguments": {"city": "Paris"}}
    back = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "Sunny"}]
    lines(served, "/api/chat", messages=back, tools=TOOLS)
    assert "Sunny" in served.backend.tokenizer.decode(served.backend.requests[-1].prompt)


def test_models_and_version_are_told(served: Served) -> None:
    assert [model["name"] for model in served.http.get("/api/tags").json()["models"]] == ["fake"]
    assert served.http.get("/api/version").json()["version"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "another"}, 404),
        ({"messages": []}, 400),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": "x", "images": ["aa"]}]}, 400),
        ({"format": "xml"}, 400),
        ({"options": {"mirostat": 2}}, 400),
        ({"options": {"top_p": 7}}, 400),
    ],
)
def test_a_refusal_is_one_sentence(served: Served, fields: dict[str, Any], status: int) -> None:
    answer = served.http.post("/api/chat", json={"model": "fake", "messages": HELLO} | fields)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)
    assert served.backend.requests == []


def test_a_stream_that_breaks_says_so(served: Served) -> None:
    served.backend.fail_at = (3, PoolUnavailable("Everybody left; try again."))
    assert lines(served, "/api/chat", messages=HELLO)[-1] == {"error": "Everybody left; try again."}
