"""Anthropic's Messages: blocks in, blocks and events out, refusals in their shape."""

import json
from typing import Any

import pytest

from muster.errors import PoolUnavailable
from tests.api.served import Served

HELLO = [{"role": "user", "content": "Hello"}]
ASK: dict[str, Any] = {"model": "fake", "messages": HELLO, "max_tokens": 200, "temperature": 0}
TOOLS = [{"name": "get_weather", "description": "The weather.", "input_schema": {"type": "object", "properties": {}}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(autouse=True)
def _room_for_definitions(served: Served) -> None:
    served.backend.max_context = 4096


def ask(served: Served, **fields: Any) -> dict[str, Any]:
    answer = served.http.post("/v1/messages", json=ASK | fields, headers={"anthropic-version": "2023-06-01"})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


def events(served: Served, **fields: Any) -> list[dict[str, Any]]:
    answer = served.http.post("/v1/messages", json=ASK | fields | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    pairs = [piece.split("\n") for piece in answer.text.split("\n\n") if piece.startswith("event: ")]
    read = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]
    assert all(name == event["type"] for name, event in read)
    return [event for _, event in read]


def test_an_answer_is_a_message_of_blocks(served: Served) -> None:
    message = ask(served)
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "fake")
    assert message["content"] == [{"type": "text", "text": served.backend.script}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    assert message["usage"]["input_tokens"] == len(served.backend.requests[0].prompt)
    assert ask(served, max_tokens=3)["stop_reason"] == "max_tokens"
    stopped = ask(served, stop_sequences=["never", "STOP"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "STOP")


def test_a_stream_has_the_same_in_pieces(served: Served) -> None:
    told = events(served)
    kinds = [event["type"] for event in told]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in told if event["type"] == "content_block_delta") == (
        served.backend.script
    )
    assert told[0]["message"]["usage"]["input_tokens"] > 0
    assert told[-2]["delta"]["stop_reason"] == "end_turn"


def test_a_call_is_a_block_whose_input_is_an_object(served: Served) -> None:
    served.backend.script = f"Let me look.\n{CALL}"
    message = ask(served, tools=TOOLS)
    text, call = message["content"]
    assert (text["text"], message["stop_reason"]) == ("Let me look.", "tool_use")
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "get_weather", {"city": "Paris"})
    told = events(served, tools=TOOLS)
    pieces = [event["delta"].get("partial_json", "") for event in told if event["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"city": "Paris"}
    starts = [event["content_block"]["type"] for event in told if event["type"] == "content_block_start"]
    assert starts == ["text", "tool_use"]


def test_a_call_that_is_cut_is_not_claimed_to_be_one(served: Served) -> None:
    served.backend.script = CALL
    message = ask(served, tools=TOOLS, max_tokens=55)
    assert (message["stop_reason"], message["content"]) == ("max_tokens", [])


def test_results_of_tools_system_blocks_and_thoughts_reach_the_prompt(served: Served) -> None:
    said = [
        *HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Sunny"}]},
                {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    ask(served, messages=said, tools=TOOLS, system=[{"type": "text", "text": "Be terse."}])
    prompt = served.backend.tokenizer.decode(served.backend.requests[0].prompt)
    places = [prompt.index(word) for word in ("Be terse.", "I look.", "Paris", "Sunny", "And now?")]
    assert places == sorted(places)


def test_an_answer_that_was_begun_is_continued(served: Served) -> None:
    ask(served, messages=[*HELLO, {"role": "assistant", "content": "The answer is"}])
    assert served.backend.tokenizer.decode(served.backend.requests[0].prompt).endswith("The answer is")


def test_a_form_is_held_to(served: Served) -> None:
    ask(served, output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}})
    assert served.backend.requests[0].sampling.grammar


def test_tokens_are_counted_without_generating(served: Served) -> None:
    counted = served.http.post("/v1/messages/count_tokens", json={"model": "fake", "messages": HELLO}).json()
    assert counted == {"input_tokens": ask(served)["usage"]["input_tokens"]}
    long = [{"role": "user", "content": "Hello " * 5000}]
    assert served.http.post("/v1/messages/count_tokens", json={"messages": long}).json()["input_tokens"] > 4096
    assert len(served.backend.requests) == 1


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"messages": []}, 400, "invalid_request_error"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "invalid_request_error"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "invalid_request_error"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, 400, "invalid_request_error"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "invalid_request_error"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "invalid_request_error"),
    ({"tools": {"name": "x"}}, 400, "invalid_request_error"),
    ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, 400, "invalid_request_error"),
    ({"tool_choice": "auto", "tools": TOOLS}, 400, "invalid_request_error"),
    ({"mcp_servers": [{"url": "x"}]}, 400, "invalid_request_error"),
    ({"temperature": "hot"}, 400, "invalid_request_error"),
    ({"model": "another"}, 404, "not_found_error"),
]


@pytest.mark.parametrize(("fields", "status", "kind"), BAD)
def test_a_refusal_has_the_shape_of_this_api(served: Served, fields: dict[str, Any], status: int, kind: str) -> None:
    answer = served.http.post("/v1/messages", json=ASK | fields)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == answer.headers["x-request-id"]
    assert served.backend.requests == []


def test_a_stream_that_breaks_says_so(served: Served) -> None:
    served.backend.fail_at = (3, PoolUnavailable("Everybody left; try again."))
    last = events(served)[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
