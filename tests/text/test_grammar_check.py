import json
import time
from collections.abc import Iterator

import pytest

from muster.errors import InvalidRequest
from muster.text.calls import Limit
from muster.text.constraint import grammar_of_choice, grammar_of_regex, grammar_of_schema
from muster.text.grammar_check import GrammarCheck
from muster.text.sandbox.endless import is_endless
from muster.text.tokenizer import Tokenizer

OBJECT = {"type": "object"}
NAMED = {f"field_{i}": {"type": "string"} for i in range(1000)}


@pytest.fixture(scope="module")
def check(byte_level: Tokenizer) -> Iterator[GrammarCheck]:
    checks = GrammarCheck(byte_level.spellings, byte_level.end_of_text_ids)
    yield checks
    checks.close()


def refusal(check: GrammarCheck, grammar: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check.checking(grammar).result()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


UNUSABLE = {
    "not": (grammar_of_schema({"not": {"type": "string"}}), '"not"'),
    "two at once": (
        grammar_of_schema({"type": "array", "uniqueItems": True, "contains": {}}),
        '"contains", "uniqueItems"',
    ),
    "overlapping oneOf": (grammar_of_schema({"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "oneOf"),
    "a format nobody knows": (grammar_of_schema({"type": "string", "format": "uri-template"}), "uri-template"),
    "another place": (grammar_of_schema({"$ref": "https://example.org/schema.json"}), "example.org"),
    "no type of JSON": (grammar_of_schema({"type": "text"}), "Invalid type: text"),
    "contradictory lengths": (grammar_of_schema({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
    "contradictory types": (grammar_of_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}), "Unsatisfiable"),
    "no multiple there": (
        grammar_of_schema({"type": "integer", "minimum": 4, "maximum": 5, "multipleOf": 3}),
        "multiple",
    ),
    "an empty enum": (grammar_of_schema({"enum": []}), "Unsatisfiable"),
    "false": (grammar_of_schema(False), "Unsatisfiable"),
    "itself": (grammar_of_schema({"$ref": "#"}), "recurses for ever"),
    "for ever": (
        grammar_of_schema({**OBJECT, "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        "recurses for ever",
    ),
    "look-ahead": (grammar_of_regex("(?=a)b"), "look-around"),
    "a bracket": (grammar_of_regex("(a"), "unclosed group"),
    "no text": (grammar_of_regex(r"[^\x00-\x{10FFFF}]"), "nothing that this model can write"),
    "no rule": ("start: x", "unknown name"),
    "no start": ('rule: "x"', "start"),
    "a brace": ('{"grammars": []}', "Lark"),
    "left open": ('start: "a', "lexer error"),
    "rules in a circle": ("start: a\na: start", "nothing that this model can write"),
    "thousands that may be left out": (grammar_of_schema({**OBJECT, "properties": NAMED}), ""),
    "branches of branches": (
        grammar_of_schema(
            {"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(20)]}
        ),
        "too large",
    ),
    "intersections": (
        grammar_of_schema({"type": "string", "allOf": [{"pattern": f".*{i}a.*{i}b"} for i in range(40)]}),
        "",
    ),
}


@pytest.mark.parametrize(("grammar", "words"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_done_is_a_sentence_that_names_it(check, grammar, words, monkeypatch):
    monkeypatch.setattr("muster.text.grammar_check.LONG", Limit(cpu_s=1, memory_bytes=512 * 2**20))
    began_s = time.process_time()
    assert words in refusal(check, grammar)
    assert time.process_time() - began_s < 2, "the work was done here instead of in the sandbox"


USABLE = {
    "an expression that sets others on fire": grammar_of_regex("(a*)*b|(x+x+)+y|(.*.*)*=.*"),
    "counted counts": grammar_of_regex("((a{1,100}){1,100}){1,100}"),
    "a huge enum": grammar_of_schema({"enum": [f"{'value' * 6} {i}" for i in range(25_000)]}),
    "a megabyte of words": grammar_of_schema(
        {**OBJECT, "properties": {f"p{i}": {"type": "string", "description": "word " * 4000} for i in range(50)}}
    ),
    "a long text": grammar_of_schema({"type": "string", "minLength": 50_000, "maxLength": 100_000}),
    "a tree": grammar_of_schema(
        {**OBJECT, "properties": {"a": {"type": "array", "items": {"$ref": "#"}}}, "required": ["a"]}
    ),
    "choices": grammar_of_choice(["a"] * 1000),
}


@pytest.mark.parametrize("grammar", USABLE.values(), ids=USABLE.keys())
def test_what_is_large_or_looks_dangerous_is_done_where_it_can_be(check, grammar):
    assert check.checking(grammar).result() == grammar


def test_what_takes_too_long_says_so_and_the_next_one_is_answered(check, monkeypatch):
    monkeypatch.setattr("muster.text.grammar_check.LONG", Limit(cpu_s=0.5, memory_bytes=512 * 2**20))
    slow = {**OBJECT, "properties": {f"p{i}": {"type": "string", "maxLength": i % 90} for i in range(9000)}}
    assert "s of computing" in refusal(check, grammar_of_schema(slow))
    assert check.checking(grammar_of_regex("a")).result() == grammar_of_regex("a")


def test_the_grammars_of_llama_cpp_come_out_as_lark(check):
    lark = check.checking('root ::= "yes" | "no" digit+\ndigit ::= [0-9]').result()
    assert "::=" not in lark
    assert check.checking(lark).result() == lark


def test_the_same_question_is_asked_once(check):
    grammar = grammar_of_regex("once or twice")
    check.checking(grammar).result()
    check._quick.call = None  # type: ignore[method-assign, assignment]
    try:
        assert check.checking(grammar).result() == grammar
    finally:
        del check._quick.call


@pytest.mark.parametrize(
    ("schema", "endless"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}, False),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, True),
        ({"type": "array", "items": {"$ref": "#"}}, False),
        ({"type": "array", "prefixItems": [{"type": "null"}, {"$ref": "#"}], "minItems": 1}, False),
        ({"type": "array", "prefixItems": [{"type": "null"}, {"$ref": "#"}], "minItems": 2}, True),
        ({"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, False),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}],
                "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}},
            },
            True,
        ),
        ({"$ref": "#somewhere"}, False),
        ({"const": {"$ref": "#"}}, False),
        (True, False),
    ],
)
def test_a_schema_is_endless_where_each_value_needs_another(schema, endless):
    assert is_endless(json.loads(json.dumps(schema))) is endless


def test_what_is_known_and_what_others_ask_does_not_wait_for_one_who_asks_for_much(check):
    known = grammar_of_regex("known")
    check.checking(known, "b").result()
    heavy = [check.checking(grammar_of_regex(f"(a{{1,{900 + i}}}b){{1,9}}"), "a") for i in range(8)]
    assert check.checking(known, "b").done()
    check.checking(grammar_of_regex("new"), "b").result()
    assert not heavy[-1].done()
    for future in heavy:
        future.cancel()
