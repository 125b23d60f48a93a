"""Tools through the stock client: definitions in, calls out, whole and in pieces."""

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from muster.api.serving import ServingOptions
from tests.api.fake_backend import FakeBackend
from tests.api.served import Served

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "How is the weather?"}],
    "temperature": 0,
    "tools": [WEATHER],
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(autouse=True)
def _room_for_definitions(served: Served) -> None:
    served.backend.max_context = 4096


def test_a_call_is_a_call_and_no_text(served: Served, client: OpenAI) -> None:
    served.backend.script = f"Let me look.\n{CALL}"
    choice = client.chat.completions.create(**ASK).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_a_name_may_be_as_long_as_those_of_servers_and_tools_joined(served: Served, client: OpenAI) -> None:
    name = "mcp__weather__" + "x" * 114
    served.backend.script = CALL.replace("get_weather", name)
    tools = [{**WEATHER, "function": {**WEATHER["function"], "name": name}}]
    (call,) = client.chat.completions.create(**{**ASK, "tools": tools}).choices[0].message.tool_calls
    assert call.function.name == name


def test_the_definitions_are_in_the_prompt(served: Served, client: OpenAI) -> None:
    client.chat.completions.create(**ASK)
    prompt = served.backend.tokenizer.decode(served.backend.requests[0].prompt)
    assert "The weather of a city." in prompt
    client.chat.completions.create(**ASK, tool_choice="none")
    assert "get_weather" not in served.backend.tokenizer.decode(served.backend.requests[1].prompt)


def test_without_tools_there_are_no_calls(served: Served, client: OpenAI) -> None:
    served.backend.script = CALL
    message = client.chat.completions.create(**{**ASK, "tools": []}).choices[0].message
    assert (message.content, message.tool_calls) == (CALL, None)
    message = client.chat.completions.create(**ASK, tool_choice="none").choices[0].message
    assert (message.content, message.tool_calls) == (CALL, None)


def test_a_stream_has_the_same_calls_in_pieces(served: Served, client: OpenAI) -> None:
    served.backend.script = f"Both.\n{CALL}\n{CALL}"
    calls: dict[int, dict[str, str]] = {}
    text, finishes, pieces = "", [], 0
    for chunk in client.chat.completions.create(**ASK, stream=True):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        finishes.append(choice.finish_reason)
        for call in choice.delta.tool_calls or []:
            if call.id:
                calls[call.index] = {"id": call.id, "name": call.function.name, "arguments": ""}
            calls[call.index]["arguments"] += call.function.arguments
            pieces += 1
    assert text == "Both."
    assert [call["name"] for call in calls.values()] == ["get_weather"] * 2
    assert [json.loads(call["arguments"]) for call in calls.values()] == [{"city": "Paris"}] * 2
    assert len({call["id"] for call in calls.values()}) == 2
    assert finishes[-1] == "tool_calls"
    assert set(finishes[:-1]) == {None}
    assert pieces > 6


def test_every_choice_has_calls_of_its_own(served: Served, client: OpenAI) -> None:
    served.backend.script = CALL
    choices = client.chat.completions.create(**ASK, n=3).choices
    assert len({choice.message.tool_calls[0].id for choice in choices}) == 3


def test_one_call_is_enough_where_several_are_not_wanted(served: Served, client: OpenAI) -> None:
    served.backend.script = CALL * 9
    answer = client.chat.completions.create(**ASK, parallel_tool_calls=False)
    assert len(answer.choices[0].message.tool_calls) == 1
    assert answer.choices[0].finish_reason == "tool_calls"
    assert len(served.backend.cancelled) == 1, "it went on for nobody"


def test_a_call_that_is_cut_is_not_claimed_to_be_one(served: Served, client: OpenAI) -> None:
    served.backend.script = CALL
    whole = len(served.backend.tokenizer.encode(CALL))
    choice = client.chat.completions.create(**ASK, max_tokens=whole - 16).choices[0]
    assert choice.finish_reason == "length"
    assert "}" not in choice.message.tool_calls[0].function.arguments
    served.backend.script = CALL[:60]
    assert client.chat.completions.create(**ASK).choices[0].finish_reason == "stop"


def test_a_conversation_goes_on_with_results(served: Served, client: OpenAI) -> None:
    served.backend.script = CALL
    first = client.chat.completions.create(**ASK).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "21 degrees"}
    client.chat.completions.create(**{**ASK, "messages": [*ASK["messages"], first, result]})
    prompt = served.backend.tokenizer.decode(served.backend.requests[1].prompt)
    assert prompt.index("How is the weather?") < prompt.index('"Paris"') < prompt.index("21 degrees")


def test_the_older_form_of_tools_is_understood_and_answered(served: Served, client: OpenAI) -> None:
    served.backend.script = CALL
    ask = {key: value for key, value in ASK.items() if key != "tools"} | {"functions": [WEATHER["function"]]}
    choice = client.chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "get_weather"
    assert choice.message.tool_calls is None
    chunks = list(client.chat.completions.create(**ask, stream=True))
    pieces = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert pieces[0].name == "get_weather"
    assert json.loads("".join(piece.arguments for piece in pieces)) == {"city": "Paris"}
    history = [
        *ask["messages"],
        {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}},
        {"role": "function", "name": "get_weather", "content": "21 degrees"},
    ]
    client.chat.completions.create(**{**ask, "messages": history})
    assert "21 degrees" in served.backend.tokenizer.decode(served.backend.requests[-1].prompt)


def test_an_answer_goes_on_where_the_last_message_ends(served: Served, client: OpenAI) -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": "It is"}]
    more = {"continue_final_message": True, "add_generation_prompt": False}
    client.chat.completions.create(model="fake", messages=messages, temperature=0, extra_body=more)
    assert served.backend.tokenizer.decode(served.backend.requests[0].prompt).endswith("Assistant: It is")


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


def said(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*ASK["messages"], *messages]}


def called(**call: Any) -> dict[str, Any]:
    whole = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}} | call
    return said({"role": "assistant", "content": None, "tool_calls": [whole]})


DEEP: dict[str, Any] = {}
for _ in range(80):
    DEEP = {"properties": DEEP}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": "f"}, "tools"),
    ({"tools": ["f"]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (tool(name=None), "tools[0].function.name"),
    (tool(name="get weather"), "tools[0].function.name"),
    (tool(name="x" * 129), "tools[0].function.name"),
    (tool(name="fünf"), "tools[0].function.name"),
    (tool(description=5), "tools[0].function.description"),
    (tool(description="x" * 100_001), "tools[0].description"),
    (tool(parameters=[]), "tools[0].function.parameters"),
    (tool(parameters=DEEP), "tools[0].parameters"),
    (tool(parameters={"enum": ["x" * 1000] * 1001}), "tools"),
    (tool(strict="yes"), "tools[0].function.strict"),
    ({"tools": tool()["tools"] * 2}, "tools[1]"),
    ({"tools": tool()["tools"] * 129}, "tools"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({**tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({**tool(), "tool_choice": "maybe"}, "tool_choice"),
    ({**tool(), "tool_choice": {"type": "custom"}}, "tool_choice"),
    ({**tool(), "functions": [{"name": "g"}]}, "functions"),
    ({"tools": None, "functions": [5]}, "functions[0]"),
    (called(id=None), "messages[1].tool_calls[0].id"),
    (called(function={"arguments": "{}"}), "messages[1].tool_calls[0].function.name"),
    (called(function={"name": "a b", "arguments": "{}"}), "messages[1].tool_calls[0].function.name"),
    (called(function={"name": "f", "arguments": '{"a": '}), "messages[1].tool_calls[0].function.arguments"),
    (called(function={"name": "f", "arguments": "[" * 9999}), "messages[1].tool_calls[0].function.arguments"),
    (called(function={"name": "f", "arguments": {}}), "messages[1].tool_calls[0].function.arguments"),
    (said({"role": "tool", "content": "4"}), "messages[1].tool_call_id"),
    (
        said({"role": "user", "content": "x", "tool_calls": called()["messages"][1]["tool_calls"]}),
        "messages[1].tool_calls",
    ),
    (said({"role": "user", "content": None}), "messages[1].content"),
    ({"extra_body": {"continue_final_message": True}}, "continue_final_message"),
]


@pytest.mark.parametrize(("fields", "parameter"), BAD, ids=[f"{parameter}-{i}" for i, (_, parameter) in enumerate(BAD)])
def test_what_is_wrong_with_tools_is_named(
    served: Served, client: OpenAI, fields: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(**{**ASK, **fields})
    assert caught.value.param == parameter
    assert served.backend.requests == []


@pytest.mark.parametrize("function", [{"description": "\ud800"}, {"parameters": {"\ud800": 1}}])
def test_half_a_character_is_named(served: Served, function: dict[str, Any]) -> None:
    answer = served.http.post(
        "/v1/chat/completions",
        content=json.dumps({**ASK, **tool(**function)}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"tools[0].{next(iter(function))}"


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, True),
        ({"tools": tool(strict=True)["tools"]}, True),
        ({"tools": tool(strict=True)["tools"], "tool_choice": "none"}, False),
        ({}, False),
    ],
)
def test_calls_that_are_demanded_or_strict_are_held_to_a_grammar(
    served: Served, client: OpenAI, fields: dict[str, Any], begins: bool
) -> None:
    client.chat.completions.create(**{**ASK, **fields})
    grammar = served.backend.requests[0].sampling.grammar
    assert ("<tool_call>" in grammar) == begins


def test_a_named_tool_is_the_only_one_that_may_be_called(served: Served, client: OpenAI) -> None:
    ask = {**ASK, "tools": [WEATHER, *tool()["tools"]]}
    client.chat.completions.create(**ask, tool_choice="required")
    client.chat.completions.create(**ask, tool_choice={"type": "function", "function": {"name": "f"}})
    both, one = (request.sampling.grammar for request in served.backend.requests)
    assert 'name\\": \\"f\\"' in both
    assert 'name\\": \\"get_weather\\"' in both
    assert "{0,127}" in both
    assert "get_weather" not in one
    assert "{0,127}" not in one


def test_a_schema_that_cannot_be_held_to_is_named(served: Served, client: OpenAI) -> None:
    bad = tool(parameters={"type": "object", "properties": {"a": {"type": "strange"}}}, strict=True)
    with pytest.raises(BadRequestError, match=r"tools cannot be done: .*strange") as caught:
        client.chat.completions.create(**{**ASK, **bad})
    assert caught.value.param == "tools"
    client.chat.completions.create(**{**ASK, **tool(parameters={"type": "strange"})})


def test_the_operator_may_choose_how_calls_are_read_or_that_none_are(served: Served) -> None:
    backend = FakeBackend(served.backend.tokenizer, max_context=4096)
    backend.script = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
    with Served(backend, ServingOptions(tool_parser="llama3_json")) as forced, forced.client() as client:
        message = client.chat.completions.create(**ASK).choices[0].message
        assert message.tool_calls[0].function.name == "get_weather"
    with Served(backend, ServingOptions(tool_parser="none")) as off, off.client() as client:
        with pytest.raises(BadRequestError, match="without tools"):
            client.chat.completions.create(**ASK)
        assert client.chat.completions.create(**ASK, tool_choice="none").choices[0].message.content == backend.script
