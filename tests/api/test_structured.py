"""Fields that say what an answer must be: each becomes the grammar of the request, or one sentence."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from pydantic import BaseModel

from muster.spec.sampling import MAX_GRAMMAR_BYTES
from tests.api.served import Served
from tests.api.test_bad_input import HELLO, chat, text

BYTES = LLTokenizer("byte")
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": POINT}}


def grammar_of(served: Served, path: str, body: dict[str, Any]) -> str:
    answer = served.http.post(path, json=body | {"max_tokens": 1})
    assert answer.status_code == 200, answer.text
    return served.backend.requests[-1].sampling.grammar


def fits(grammar: str, said: str) -> bool:
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.consume_tokens(BYTES.tokenize_str(said)) and matcher.is_accepting()


POINTS = (['{"x":1}', '{"x": 1}', '{\n  "x": 1\n}'], ['{"x":"1"}', '{"x":1,"y":2}', '{"x":   1}', "{}"])
OBJECTS = (["{}", '{"a": [1]}'], ["[]", "1", '{"a"'])
WORDS = (["yes", "no"], ["yes!", "", "y"])
ASKED: list[tuple[dict[str, Any], tuple[list[str], list[str]]]] = [
    ({"response_format": {"type": "json_object"}}, OBJECTS),
    ({"response_format": FORMAT}, POINTS),
    ({"response_format": {"type": "json_schema", "name": "point", "schema": POINT}}, POINTS),
    ({"structured_outputs": {"json": POINT}}, POINTS),
    ({"structured_outputs": {"json": json.dumps(POINT), "regex": None, "json_object": False}}, POINTS),
    ({"structured_outputs": {"json": POINT, "disable_any_whitespace": True}}, (POINTS[0][:1], POINTS[0][1:])),
    ({"structured_outputs": {"json": POINT, "whitespace_pattern": "\t"}}, (['{\t"x":\t1}'], POINTS[0][1:])),
    ({"structured_outputs": {"regex": "(yes|no)"}}, WORDS),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, WORDS),
    ({"structured_outputs": {"grammar": 'start: "yes" | "no"'}}, WORDS),
    ({"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}}, WORDS),
    ({"structured_outputs": {"json_object": True}}, OBJECTS),
    ({"guided_json": POINT}, POINTS),
    ({"guided_json": json.dumps(POINT), "guided_whitespace_pattern": "\t"}, (['{\t"x":\t1}'], POINTS[0][1:])),
    ({"guided_regex": "yes|no"}, WORDS),
    ({"guided_choice": ["yes", "no"]}, WORDS),
    ({"guided_grammar": 'start: "yes" | "no"'}, WORDS),
]


@pytest.mark.parametrize("route", [chat, text])
@pytest.mark.parametrize(("fields", "examples"), ASKED, ids=[str(fields)[:60] for fields, _ in ASKED])
def test_what_is_asked_for_becomes_the_grammar(
    served: Served, route: Any, fields: dict[str, Any], examples: tuple[Sequence[str], Sequence[str]]
) -> None:
    grammar = grammar_of(served, *route(**fields))
    right, wrong = examples
    assert [said for said in right if not fits(grammar, said)] == []
    assert [said for said in wrong if fits(grammar, said)] == []


@pytest.mark.parametrize("fields", [{}, {"response_format": None}, {"response_format": {"type": "text"}}])
def test_whoever_asks_for_nothing_gets_anything(served: Served, fields: dict[str, Any]) -> None:
    assert grammar_of(served, *chat(**fields)) == ""
    assert grammar_of(served, *text(**fields)) == ""


NOT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {"type": "string"}}}}
BAD = [
    ({"response_format": NOT}, "response_format.json_schema.schema", 'the schema uses "not"'),
    ({"guided_json": {"type": "array", "contains": {}}}, "guided_json", '"contains"'),
    ({"guided_json": {"oneOf": [{"type": "string"}, {"maxLength": 2}]}}, "guided_json", "oneOf with options"),
    ({"guided_json": {"$ref": "#"}}, "guided_json", "recurses for ever"),
    ({"guided_json": "{"}, "guided_json", "not a JSON schema"),
    ({"guided_json": "[" * 5000}, "guided_json", "too much to read"),
    ({"guided_json": "[[]," + "[]," * 90_000 + "1]"}, "guided_json", "too much to read"),
    ({"guided_json": [1]}, "guided_json", "not a JSON schema"),
    ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
    ({"guided_regex": "\ud800"}, "guided_regex", "surrogate"),
    ({"guided_regex": "a" * 50_001}, "guided_regex", "50000 characters"),
    ({"guided_choice": []}, "guided_choice", "at least one"),
    ({"guided_choice": ["a"] * 10_001}, "guided_choice", "10000"),
    ({"guided_grammar": "x"}, "guided_grammar", "cannot be done"),
    ({"guided_grammar": "# " + "x" * MAX_GRAMMAR_BYTES}, "guided_grammar", "2 MiB"),
    ({"guided_grammar": "a ::= ("}, "guided_grammar", "cannot be done"),
    ({"guided_json": POINT, "guided_whitespace_pattern": "("}, "guided_json", "cannot be done"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "send one of them"),
    ({"response_format": FORMAT, "guided_regex": "a"}, "guided_regex", "send one of them"),
    ({"response_format": "json"}, "response_format.type", "none of text"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "none of text"),
    ({"response_format": {"type": "structural_tag"}}, "response_format", "structural tags"),
    ({"response_format": {"type": "json_schema"}}, "response_format.schema", "no schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.schema",
        "no schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}},
        "response_format.json_schema.strict",
        "neither true nor false",
    ),
    ({"structured_outputs": 1}, "structured_outputs", "not an object"),
    ({"structured_outputs": {}}, "structured_outputs", "asks for nothing"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "json and regex"),
    ({"structured_outputs": {"yaml": {}}}, "structured_outputs.yaml", "nobody knows"),
    ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "does not do"),
    ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice", "list of texts"),
    ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice", "list of texts"),
    ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex", "not text"),
    ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "neither true nor false"),
    ({"structured_outputs": {"json": {}, "whitespace_pattern": 1}}, "whitespace_pattern", "not text"),
]


@pytest.mark.parametrize(("fields", "parameter", "says"), BAD, ids=[f"{p}: {s}" for _, p, s in BAD])
def test_what_cannot_be_done_names_the_field_and_what_is_wrong(
    served: Served, fields: dict[str, Any], parameter: str, says: str
) -> None:
    for path, body in (chat(**fields), text(**fields)):
        answer = served.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert error["param"] == parameter
        assert says in error["message"]
        assert "\n" not in error["message"]
        assert len(error["message"]) < 500
    assert served.backend.requests == []


class Point(BaseModel):
    x: int
    y: int | None = None


def test_the_client_library_sends_a_type_as_a_schema_that_is_understood(served: Served) -> None:
    served.backend.script = '{"x": 3, "y": null}'
    with served.client() as client:
        answer = client.chat.completions.parse(
            model="fake", messages=HELLO, response_format=Point, temperature=0, max_tokens=200
        )
    assert answer.choices[0].message.parsed == Point(x=3)
    grammar = served.backend.requests[-1].sampling.grammar
    assert fits(grammar, '{"x": 3, "y": null}')
    assert not fits(grammar, '{"x": 3}')
