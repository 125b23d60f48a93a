"""Answers that keep to a form, from a pool of four machines: the last of them has the vocabulary and chooses."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.flows.live_pool import LivePool

HELLO = [{"role": "user", "content": "Say something about foxes."}]
FOX = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 20},
        "colours": {"type": "array", "items": {"enum": ["red", "grey", "white"]}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "fox", "schema": FOX}}


@pytest.fixture
def model(pool: LivePool) -> str:
    return pool.model.shape.name


def is_fox(said: str) -> bool:
    fox = json.loads(said)
    return (
        list(fox) == ["name", "age", "colours"]
        and len(fox["name"]) <= 12
        and 0 <= fox["age"] <= 20
        and 2 <= len(fox["colours"]) <= 4
        and set(fox["colours"]) <= {"red", "grey", "white"}
    )


def test_every_answer_is_what_was_asked_for_whole_or_streamed(client: OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": HELLO, "response_format": FORMAT, "max_tokens": 200, "seed": 5}
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "stop"
    assert is_fox(whole.message.content)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole.message.content


def test_many_forms_at_once_disturb_neither_each_other_nor_whoever_wants_none(client: OpenAI, model: str) -> None:
    def say(more: dict[str, Any]) -> str:
        ask = {"model": model, "prompt": "A fox", "max_tokens": 40, "seed": 9}
        return client.completions.create(**ask, extra_body=more).choices[0].text

    forms: list[dict[str, Any]] = [
        {},
        {"structured_outputs": {"regex": "[0-9]{3}-[0-9]{4}"}},
        {"guided_choice": ["red", "grey"]},
        {"structured_outputs": {"grammar": 'start: "fox" ("," "fox"){2}'}},
    ]
    alone = [say(form) for form in forms]
    with ThreadPoolExecutor(len(forms)) as threads:
        assert list(threads.map(say, forms)) == alone
    assert alone[1][3] == "-"
    assert alone[2] in ("red", "grey")
    assert alone[3] == "fox,fox,fox"


def test_an_answer_that_is_cut_says_so(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, response_format=FORMAT, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"


def test_what_only_the_last_machine_finds_out_ends_that_request_in_a_sentence(
    client: OpenAI, model: str, pool: LivePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def accept(serving: object, visit: object, structure: object) -> str:
        return "start: <|nobody|>"

    monkeypatch.setattr("muster.api.chat.checked_grammar", accept)
    route = pool.route()
    with pytest.raises(BadRequestError, match="unknown special token"):
        client.chat.completions.create(model=model, messages=HELLO, response_format=FORMAT, max_tokens=3)
    assert pool.route() == route
