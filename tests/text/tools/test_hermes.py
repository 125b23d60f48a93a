"""Calls between tags, as Hermes and Qwen models write them."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.text.tools.families import FAMILIES
from muster.text.tools.reading import Reading, Tags
from tests.examples import examples
from tests.text.tools.reading_texts import answer_of, cut, read, read_in_every_way

HERMES = Reading(FAMILIES["hermes"])
THINKING = Reading(FAMILIES["hermes"], tags=Tags("<think>", "</think>"))
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": [1, 2]}}\n</tool_call>'
ARGUMENTS = '{"city": "Paris", "days": [1, 2]}'

TEXTS = [
    # What is written, the text, the calls.
    (CALL, "", [("get_weather", ARGUMENTS, True)]),
    ("Let me look.\n\n" + CALL, "Let me look.", [("get_weather", ARGUMENTS, True)]),
    (CALL + "\n" + CALL, "", [("get_weather", ARGUMENTS, True)] * 2),
    (CALL + "\nDone, it seems. ", "Done, it seems. ", [("get_weather", ARGUMENTS, True)]),
    (CALL[:60], "", [("get_weather", '{"city": "P', False)]),
    (CALL.removesuffix("\n</tool_call>"), "", [("get_weather", ARGUMENTS, True)]),
    (
        '<tool_call>{"arguments": {"a": "</tool_call>{\\"}"}, "name": "add"}</tool_call>',
        "",
        [("add", '{"a": "</tool_call>{\\"}"}', True)],
    ),
    ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("add", '{"a": 1}', True)]),
    ('<tool_call>{"name": "add", "arguments": null}</tool_call>', "", [("add", "{}", True)]),
    ('<tool_call>{"name": "add"}</tool_call>x', "x", [("add", "{}", True)]),
    ('<tool_call>{"id": [{}], "name": "add", "parameters": {}, "x": 1}</tool_call>', "", [("add", "{}", True)]),
    # No calls.
    ("The tag <tool_call> opens, </tool_call> closes.", "The tag <tool_call> opens, </tool_call> closes.", []),
    ("<tool_call>\n<tool_call>\n", "<tool_call>\n<tool_call>\n", []),
    ('<tool_call>{"name": 5}', '<tool_call>{"name": 5}', []),
    ('<tool_call>{"name": "a b", "arguments": {}}', '<tool_call>{"name": "a b", "arguments": {}}', []),
    ('<tool_call>{"name": "\\ud800", "arguments": {}}', '<tool_call>{"name": "\\ud800", "arguments": {}}', []),
    ('<tool_call>{"arguments": {"a": 1', '<tool_call>{"arguments": {"a": 1', []),
    ("a < b <tool", "a < b <tool", []),
    ("  \n text \n ", "  \n text \n ", []),
    ("", "", []),
]


@pytest.mark.parametrize(("written", "text", "calls"), TEXTS)
def test_calls_and_text_are_told_apart_however_they_come(
    written: str, text: str, calls: list[tuple[str, str, bool]]
) -> None:
    answer = read_in_every_way(HERMES, written)
    assert (answer.text, answer.calls) == (text, calls)


def test_reasoning_is_set_apart() -> None:
    answer = read_in_every_way(THINKING, f"<think>\nIt asks for <tool_call>.\n</think>\n\nI look.\n{CALL}")
    assert answer.thought == "It asks for <tool_call>."
    assert answer.text == "I look."
    assert answer.calls == [("get_weather", ARGUMENTS, True)]
    assert read_in_every_way(THINKING, "<thin gs>").text == "<thin gs>"
    assert read_in_every_way(THINKING, "<think>for ever").thought == "for ever"
    assert read_in_every_way(THINKING, "<think>\n\n</think>\n\nHi").text == "Hi"


def test_ids_depend_on_the_request_alone() -> None:
    first, again = read(HERMES, [CALL + CALL]), read(HERMES, list(CALL + CALL))
    assert first.ids == again.ids
    assert len(set(first.ids)) == 2
    other = HERMES.start("another").feed(CALL)
    assert other[0].id not in first.ids  # type: ignore[union-attr]


def test_at_most_so_many_calls_are_read() -> None:
    reader = Reading(FAMILIES["hermes"], max_calls=1).start("request")
    events = [event for letter in "Look: " + CALL for event in reader.feed(letter)]
    assert reader.turn.over
    assert reader.feed(CALL) == reader.finish() == ()
    answer = answer_of(events)
    assert (answer.text, answer.calls) == ("Look:", [("get_weather", ARGUMENTS, True)])


FRAGMENTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", '{"name": "add", ', '"arguments": ', "{", "}", '"', "\\", " ", "\n", "x", CALL]
)


@examples(150)
@given(fragments=st.lists(FRAGMENTS, max_size=12), places=st.sets(st.integers(0, 400), max_size=8))
def test_how_a_text_is_cut_changes_nothing(fragments: list[str], places: set[int]) -> None:
    text = "".join(fragments)
    assert read(THINKING, cut(text, places)) == read(THINKING, [text])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@examples(30)
@given(values=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), max_size=3), ascii=st.booleans())
def test_any_arguments_come_back(values: list[dict[str, object]], ascii: bool) -> None:
    written = [json.dumps({"name": "add", "arguments": value}, ensure_ascii=ascii) for value in values]
    text = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)
    answer = read(HERMES, list(text))
    assert [json.loads(arguments) for _, arguments, _ in answer.calls] == values
    assert answer.text == ""


@pytest.mark.parametrize(
    "piece", ["<tool_call>", '<tool_call>{"a": [', "{", '"', " ", "\\", "</tool_call>", '<tool_call>{"name": "add", ']
)
def test_hostile_text_takes_time_in_proportion(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    started_s = time.process_time()
    read(THINKING, cut(text, range(0, len(text), 50)))
    assert time.process_time() - started_s < 5
