"""What nobody knows is left out and named, wherever in a body it stands, however many there are; or refused."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from muster.api.chat_fields import ChatMessage, ChatRequest, ContentPart
from muster.api.fields import StreamOptions
from muster.api.ignored import HEADER, MAX_NAMED, IgnoredFields, places
from muster.api.serving import ServingOptions
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.served import Served

TEXT = {"model": "fake", "prompt": "x", "max_tokens": 3, "seed": 1}
NESTED: dict[str, Any] = {
    "model": "fake",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "Hello", "colour": 1},
        {"role": "user", "content": "Hello", "colour": 2},
    ],
    "max_tokens": 3,
    "stream": True,
    "stream_options": {"include_usage": True, "speed": 1},
    "provider": {"order": []},
}


def test_an_unknown_field_is_left_out_and_named(served: Served) -> None:
    plain = served.http.post("/v1/completions", json=TEXT)
    assert HEADER not in plain.headers
    with_unknown = served.http.post("/v1/completions", json=TEXT | {"temprature": 1, "provider": {"order": []}})
    assert with_unknown.headers[HEADER] == "temprature, provider"
    assert with_unknown.json()["choices"] == plain.json()["choices"]


def test_an_unknown_field_in_another_is_named_with_its_place(served: Served) -> None:
    answer = served.http.post("/v1/chat/completions", json=NESTED)
    assert answer.status_code == 200
    named = set(answer.headers[HEADER].split(", "))
    assert named == {"provider", "messages[].content[].cache_control", "messages[].colour", "stream_options.speed"}


def test_a_refusal_names_them_too(served: Served) -> None:
    answer = served.http.post("/v1/completions", json=TEXT | {"temprature": 1, "n": 0})
    assert (answer.status_code, answer.headers[HEADER]) == (400, "temprature")


def test_names_without_number_or_of_any_characters_make_a_short_header(served: Served) -> None:
    many = {f"field{i}" + "x" * 200: 1 for i in range(5_000)}
    answer = served.http.post("/v1/completions", json=TEXT | many)
    assert answer.status_code == 200
    assert len(answer.headers[HEADER]) < 2_000
    assert answer.headers[HEADER].endswith(f"and {5_000 - MAX_NAMED} more")
    body = json.dumps(TEXT | {"x\r\nset-cookie: a": 1, "é, b": 2, "\ud800": 3})
    answer = served.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers[HEADER].split(", ")[1] == "%C3%A9%2C%20b"


def test_where_fields_are_strict_the_first_unknown_one_is_refused(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), ServingOptions(strict_fields=True)) as served:
        assert served.http.post("/v1/completions", json=TEXT).status_code == 200
        for body, path in (
            (TEXT | {"temprature": 1}, "temprature"),
            (NESTED | {"provider": None}, "provider"),
            ({**NESTED, "stream_options": {"speed": 1}}, "provider"),
        ):
            where = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
            answer = served.http.post(where, json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].endswith("is unknown; remove it.")
            assert answer.json()["error"]["param"] is not None, path


def test_the_parts_of_a_body_have_places() -> None:
    found = places(ChatRequest)
    assert found[ChatRequest] == ""
    assert found[StreamOptions] == "stream_options."
    assert found[ChatMessage] == "messages[]."
    assert found[ContentPart] == "messages[].content[]."


def test_parts_that_hold_each_other_have_places_too() -> None:
    class Tree(BaseModel):
        left: "Tree | None" = None
        leaves: dict[str, list[StreamOptions]] = {}

    assert places(Tree) == {Tree: "", StreamOptions: "leaves[][]."}


@pytest.mark.parametrize("refuse", [True, False])
def test_what_is_known_is_no_matter(refuse: bool) -> None:
    ignored = IgnoredFields(refuse)
    ignored.note(ChatRequest, [])
    assert ignored.header == ""


def test_a_field_without_a_name_is_answered_like_any_other(served: Served) -> None:
    for more in ({"0": None, "": None}, {"": None}, {"": 1, "other": 2}):
        answer = served.http.post("/detokenize", json={"tokens": [1]} | more)
        assert answer.status_code == 200
        assert '""' in answer.headers["x-muster-ignored-fields"]
