"""Each family's own examples, cut at every place; which family a template is of; hostile texts."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.text.tools.families import FAMILIES, named_by, tags_of
from muster.text.tools.reading import Reading, Tags
from tests.examples import examples
from tests.text.tools.reading_texts import cut, read, read_in_every_way

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"enum": ["c", "f"]}},
}
SCHEMAS = {"get_weather": SCHEMA, "now": {"type": "object", "properties": {}}}
PARIS = ("get_weather", {"city": "Paris", "days": 2})
ROME = ("get_weather", {"city": 'Rome\n<b>&\\ "x"', "units": "c"})
NOW = ("now", {})

D_ALL, D_BEGIN, D_SEP, D_END, D_ALL_END = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
)  # fmt: skip
PARIS_JSON, ROME_JSON = json.dumps(PARIS[1]), json.dumps(ROME[1])
FENCED = "function" + D_SEP + "get_weather\n```json\n"

EXAMPLES: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]] = [
    # Family, what is written, the text, the calls.
    (
        "qwen3_coder",
        "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "I look.",
        [PARIS, NOW],
    ),
    (
        "qwen3_coder",
        '<function=get_weather><parameter=city>\nRome\n<b>&\\ "x"\n</parameter><parameter=units>c</parameter>'
        "</function>",
        "",
        [ROME],
    ),
    ("qwen3_coder", f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS_JSON}}}\n</tool_call>', "", [PARIS]),
    (
        "glm",
        "I look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        "I look.",
        [PARIS, NOW],
    ),
    (
        "glm",
        '<tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome\n<b>&\\ "x"</arg_value><arg_key>units</arg_key>'
        "<arg_value>c</arg_value></tool_call><tool_call>now</tool_call>",
        "",
        [ROME, NOW],
    ),
    (
        "llama3_json",
        f'{{"name": "get_weather", "parameters": {PARIS_JSON}}}; {{"name": "now", "parameters": {{}}}}',
        "",
        [PARIS, NOW],
    ),
    ("llama3_json", f'<|python_tag|>{{"type": "x", "name": "get_weather", "parameters": {ROME_JSON}}}', "", [ROME]),
    ("mistral", f'I look.[TOOL_CALLS]get_weather[ARGS]{PARIS_JSON}[TOOL_CALLS]now[ARGS]{{}}', "I look.", [PARIS, NOW]),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{ROME_JSON}", "", [ROME]),
    ("mistral", f"[TOOL_CALLS]get_weather{ROME_JSON}", "", [ROME]),
    (
        "mistral_list",
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS_JSON}, "id": "VvvODy9mT"}}, '
        f'{{"name": "get_weather", "arguments": {ROME_JSON}}}]',
        "",
        [PARIS, ROME],
    ),
    (
        "harmony",
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{PARIS_JSON}<|call|>",
        "",
        [PARIS],
    ),
    (
        "harmony",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.get_weather<|channel|>"
        f"commentary json<|message|>{ROME_JSON}",
        "I look.",
        [ROME],
    ),
    ("harmony", "<|channel|>final<|message|>Hello <there>.<|return|>", "Hello <there>.", []),
    ("harmony", "plain text", "plain text", []),
    (
        "deepseek_v31",
        f"I look.{D_ALL}{D_BEGIN}get_weather{D_SEP}{PARIS_JSON}{D_END}{D_BEGIN}now{D_SEP}{{}}{D_END}{D_ALL_END}",
        "I look.",
        [PARIS, NOW],
    ),
    (
        "deepseek_v3",
        f"{D_ALL}{D_BEGIN}{FENCED}{PARIS_JSON}\n```{D_END}\n{D_BEGIN}{FENCED}{ROME_JSON}\n```{D_END}{D_ALL_END}",
        "",
        [PARIS, ROME],
    ),
    (
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>"
        "<start_function_call>call:now{}<end_function_call>",
        "",
        [PARIS, NOW],
    ),
    (
        "gemma4",
        'I look.\n<|tool_call>call:get_weather{city:<|"|>Rome\n<b>&\\ "x"<|"|>,units:<|"|>c<|"|>}<tool_call|>',
        "I look.",
        [ROME],
    ),
    ("gemma4", f"<|tool_call>call:get_weather{ROME_JSON}<tool_call|>", "", [ROME]),
    ("gemma4", f'<|tool_call>call:get_weather{{\n  {PARIS_JSON[1:]}<tool_call|>', "", [PARIS]),
    (
        "gemma4",
        '<|tool_call>call:now{a:[1,true,{b:<|"|>x,}<|"|>}],c:null,d:{}}<tool_call|>',
        "",
        [("now", {"a": [1, True, {"b": "x,}"}], "c": None, "d": {}})],
    ),
    # No calls.
    ("qwen3_coder", "<function=a b>x</function> <tool_call> <parameter=", None, []),
    ("glm", "<tool_call> is a tag, <tool_call>\nso", None, []),
    ("llama3_json", '{"name": "unheard_of", "parameters": {}}', None, []),
    ("llama3_json", '{"name": "Ada", "age": 3} is JSON.', None, []),
    ("mistral", "[TOOL_CALLS] x [TOOL_CALLS]{", None, []),
    ("mistral_list", '[TOOL_CALLS] [{"name": 5}]', None, []),
    ("deepseek_v31", f"{D_BEGIN}a b{D_SEP}{{}}", None, []),
    ("gemma4", "<|tool_call>call me", None, []),
]  # fmt: skip


def reading(family: str) -> Reading:
    return Reading(FAMILIES[family], SCHEMAS)


@pytest.mark.parametrize(("family", "written", "text", "calls"), EXAMPLES)
def test_examples_of_each_family_are_read_however_they_come(
    family: str, written: str, text: str | None, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    answer = read_in_every_way(reading(family), written)
    assert answer.text == (written if text is None else text)
    assert [(name, json.loads(arguments)) for name, arguments, _ in answer.calls] == calls
    assert all(ended for _, _, ended in answer.calls)


@pytest.mark.parametrize(("family", "written", "text", "calls"), [case for case in EXAMPLES if case[3]])
def test_a_call_that_breaks_off_is_never_complete(
    family: str, written: str, text: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    for end in range(len(written)):
        answer = read(reading(family), [written[:end]])
        for name, arguments, ended in answer.calls:
            expected = calls[answer.calls.index((name, arguments, ended))]
            assert name == expected[0]
            assert not ended or json.loads(arguments) == expected[1]


def test_reasoning_on_a_channel_is_set_apart() -> None:
    written = (
        "<|channel|>analysis<|message|>They ask for\nParis.<|end|><|start|>assistant<|channel|>commentary"
        " to=functions.now <|constrain|>json<|message|>{}<|call|>"
    )
    answer = read_in_every_way(reading("harmony"), written)
    assert (answer.thought, answer.text) == ("They ask for\nParis.", "")
    assert answer.calls == [("now", "{}", True)]


@pytest.mark.parametrize("tags", [Tags("[THINK]", "[/THINK]"), Tags("<|channel>thought\n", "<channel|>")])
def test_relatives_of_think_are_set_apart(tags: Tags) -> None:
    answer = read_in_every_way(Reading(tags=tags), f"{tags.begin}Hm,\nwell.{tags.end}Hello. ")
    assert (answer.thought, answer.text) == ("Hm,\nwell.", "Hello. ")
    begun = read_in_every_way(Reading(tags=tags, begins_in_thought=True), f"Hm.\n{tags.end}\n\nHello.")
    assert (begun.thought, begun.text) == ("Hm.", "Hello.")


MARKS = sorted({mark for family in FAMILIES.values() for mark in family.marks})
WORDS = ['{"name": "now", ', '"arguments": ', "now", "call:", "é", "<function=now>", "<parameter=city>", "</parameter>"]
FRAGMENTS = st.sampled_from([*MARKS, *WORDS, "</function>", " to=functions.now", *'{}[]"\\ \n,;:'])


@examples(150)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    fragments=st.lists(FRAGMENTS, max_size=14),
    places=st.sets(st.integers(0, 300), max_size=8),
)
def test_how_a_text_is_cut_changes_nothing(family: str, fragments: list[str], places: set[int]) -> None:
    text = "".join(fragments)
    whole = read(reading(family), [text])
    assert read(reading(family), cut(text, places)) == whole
    for _, arguments, ended in whole.calls:
        if ended and family in ("glm", "qwen3_coder"):
            json.loads(arguments)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_hostile_text_takes_time_in_proportion(family: str) -> None:
    marks = "".join(FAMILIES[family].marks)
    for piece in (*FAMILIES[family].marks, marks, marks + "{", "<function=now><parameter=city>\n", "<|message|>{"):
        text = piece * (30_000 // len(piece))
        started_s = time.process_time()
        read(reading(family), cut(text, range(0, len(text), 20)))
        assert time.process_time() - started_s < 2, piece


TEMPLATES = {
    "harmony": "<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>",
    "deepseek_v3": "{{ '<｜tool▁call▁begin｜>' + t.type + '<｜tool▁sep｜>' + t.function.name + '\n' + '```json' }}",
    "deepseek_v31": "{{ '<｜tool▁call▁begin｜>' + t.function.name + '<｜tool▁sep｜>' + t.function.arguments }}",
    "mistral": "{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}",
    "mistral_list": "{{- '[TOOL_CALLS] [' }}{{ t.function | tojson }}",
    "qwen3_coder": "{{ '<tool_call>\n<function=' + name + '>\n<parameter=' + key + '>' }}",
    "glm": "<tool_call>{{ name }}<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value></tool_call>",
    "gemma4": "{{ '<|tool_call>call:' + name }}",
    "functiongemma": "{{ '<start_function_call>call:' + name }}",
    "hermes": "<tool_call>\n{{ t | tojson }}\n</tool_call>",
    "llama3_json": '<|start_header_id|>{{ role }}<|end_header_id|>{"name": {{ name }}, "parameters": {{ a }}}',
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_tells_its_family(family: str) -> None:
    assert named_by(TEMPLATES[family]) == family


def test_a_template_tells_how_reasoning_is_marked() -> None:
    assert tags_of("{% if '</think>' in content %}") == Tags("<think>", "</think>")
    assert tags_of("[THINK]{{ reasoning }}[/THINK]") == Tags("[THINK]", "[/THINK]")
    assert tags_of("{{ messages }}") is None
