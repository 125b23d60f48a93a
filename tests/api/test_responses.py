"""OpenAI's Responses through the stock client: items in, items and events out, and answers that are kept."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from muster.api.serving import ServingOptions
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served

ASK: dict[str, Any] = {"model": "fake", "input": "Hello", "temperature": 0}
TOOLS: list[Any] = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(autouse=True)
def _room_for_definitions(served: Served) -> None:
    served.backend.max_context = 4096


@pytest.fixture
def storing(tokenizer: Tokenizer) -> Iterator[Served]:
    keys = FakeKeys({"sk-1": FakeRecord("k1"), "sk-2": FakeRecord("k2")})
    with Served(FakeBackend(tokenizer), ServingOptions(store_responses_s=60), keys=keys) as served:
        yield served


def test_an_answer_is_a_response_of_items(served: Served, client: OpenAI) -> None:
    response = client.responses.create(**ASK, instructions="Be terse.")
    assert (response.output_text, response.status) == (served.backend.script, "completed")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    cut = client.responses.create(**ASK, max_output_tokens=3)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_stream_has_the_same_in_numbered_events(served: Served, client: OpenAI) -> None:
    with client.responses.stream(**ASK) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == served.backend.script


def test_a_call_goes_out_and_its_output_comes_back(served: Served, client: OpenAI) -> None:
    served.backend.script = f"I look.\n{CALL}"
    message, call = client.responses.create(**ASK, tools=TOOLS).output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"})
    with client.responses.stream(**ASK, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
    assert "response.function_call_arguments.done" in kinds
    back = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        message.model_dump(),
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"},
    ]
    client.responses.create(**ASK | {"input": back}, tools=TOOLS)
    prompt = served.backend.tokenizer.decode(served.backend.requests[-1].prompt)
    places = [prompt.index(word) for word in ("Hello", "I look.", "Paris", "Sunny")]
    assert places == sorted(places)


def test_a_form_is_held_to(served: Served, client: OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    assert client.responses.create(**ASK, text=form).text.format.type == "json_schema"
    assert served.backend.requests[0].sampling.grammar


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"background": True}, "background"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"truncation": "auto"}, "truncation"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
]


@pytest.mark.parametrize(("fields", "parameter"), BAD)
def test_what_is_wrong_is_named(served: Served, client: OpenAI, fields: dict[str, Any], parameter: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(**ASK | fields)
    assert caught.value.param == parameter
    assert served.backend.requests == []


def test_without_a_store_nothing_is_kept(served: Served, client: OpenAI) -> None:
    response = client.responses.create(**ASK, store=True)
    assert response.model_dump()["store"] is False
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)


def test_a_kept_answer_can_be_followed_read_and_forgotten(storing: Served) -> None:
    client, other = storing.client("sk-1"), storing.client("sk-2")
    first = client.responses.create(**ASK, instructions="Be terse.")
    second = client.responses.create(**ASK | {"input": "Go on"}, previous_response_id=first.id, stream=True)
    *_, completed = second
    prompt = storing.backend.tokenizer.decode(storing.backend.requests[-1].prompt)
    assert "Be terse." not in prompt
    assert prompt.index("Hello") < prompt.index("The pool answers") < prompt.index("Go on")
    assert client.responses.retrieve(completed.response.id).previous_response_id == first.id
    for refused in (other.responses.retrieve, other.responses.delete):
        with pytest.raises(NotFoundError):
            refused(first.id)
    client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        client.responses.create(**ASK, previous_response_id=first.id)
    unkept = client.responses.create(**ASK, store=False)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(unkept.id)
    client.close()
    other.close()
