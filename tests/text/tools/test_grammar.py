"""Grammars of calls: what a family writes fits, what is wrong does not, and whatever fits is read as a valid call."""

import json
from random import Random
from typing import Any

import pytest
from llguidance import LLMatcher

from muster.errors import Unsupported
from muster.text.calls import Spellings, Tool
from muster.text.constraint import grammar_of_schema
from muster.text.grammar import allowed_tokens, compiled, token_table
from muster.text.tools.families import FAMILIES
from muster.text.tools.grammar import CallDemand, grammar_of_answer
from muster.text.tools.reading import Reading, Tags
from tests.text.tools.reading_texts import Answer, read

WEATHER = Tool(
    "get_weather",
    "",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
SAY = Tool("say", "", {"type": "object", "properties": {"words": {"type": "string"}}, "required": ["words"]})
STRICT = Tool("get_weather", "", WEATHER.parameters, strict=True)
THINK = Tags("<think>", "</think>")


class Spoken:
    """A vocabulary of single bytes, and of a family's marks as tokens of their own where it has them so."""

    def __init__(self, reading: Reading, specials: bool, end: int = 256) -> None:
        marks = [*(reading.family.marks if reading.family else ()), *(reading.tags.marks if reading.tags else ())]
        self.names = {257 + i: mark for i, mark in enumerate(marks)} if specials else {}
        spelled = bytes(range(256))
        ends = [*range(1, 257), 256, *(256 for _ in self.names)]
        packed = b"".join(end.to_bytes(4, "little") for end in ends)
        self.table = token_table(Spellings(spelled, packed, {256: "<end>", **self.names}), [end])
        self.reading = Reading(
            reading.family,
            reading.schemas,
            reading.tags,
            reading.begins_in_thought,
            reading.max_calls,
            {id: name.encode() for id, name in self.names.items()},
        )

    def matcher(self, demand: CallDemand) -> LLMatcher:
        return compiled(self.table, grammar_of_answer(self.reading, demand))

    def ids(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            id = next((id for id, name in self.names.items() if text.startswith(name)), None)
            piece = self.names[id] if id is not None else text[0]
            ids += [id] if id is not None else piece.encode()
            text = text[len(piece) :]
        return ids

    def text(self, ids: list[int]) -> str:
        return b"".join(self.names[id].encode() if id in self.names else bytes([id]) for id in ids).decode(
            errors="replace"
        )

    def fits(self, demand: CallDemand, text: str) -> bool:
        matcher, ids = self.matcher(demand), self.ids(text)
        return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())

    def anything(self, demand: CallDemand, random: Random, most: int = 600) -> Answer | None:
        """A random text of the grammar, read; None where it did not come to its end."""
        matcher, ids = self.matcher(demand), list[int]()
        for _ in range(most):
            allowed = allowed_tokens(matcher)
            if 256 in allowed:
                return read(self.reading, [self.text(ids)])
            # A model would not go on with a text or with new lines for ever, either.
            marks = [id for id in allowed if id > 256 and random.random() < 0.5]
            id = random.choice(marks or [id for id in allowed if id >= 32] or allowed)
            ids.append(id)
            assert matcher.consume_token(id)
        return None


def spoken(family: str, *tools: Tool, specials: bool = True, max_calls: int = 128, **more: Any) -> Spoken:
    schemas = {tool.name: tool.parameters for tool in tools}
    return Spoken(Reading(FAMILIES[family], schemas, max_calls=max_calls, **more), specials)


D_ALL, D_BEGIN, D_SEP, D_END, D_ALL_END = FAMILIES["deepseek_v3"].marks[0], *(
    FAMILIES["deepseek_v3"].marks[i] for i in (2, 3, 4, 1)
)  # fmt: skip
ARGUMENTS = '{"city": "Paris", "days": 3}'
WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>",
    "llama3_json": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    "mistral": f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}",
    "mistral_list": f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    "harmony": f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}",
    "deepseek_v31": f"{D_ALL}{D_BEGIN}get_weather{D_SEP}{ARGUMENTS}{D_END}{D_ALL_END}",
    "deepseek_v3": f"{D_ALL}{D_BEGIN}function{D_SEP}get_weather\n```json\n{ARGUMENTS}\n```{D_END}{D_ALL_END}",
    "glm": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call>",
    "gemma4": f"<|tool_call>call:get_weather{ARGUMENTS}<tool_call|>",
    "functiongemma": f"<start_function_call>call:get_weather{ARGUMENTS}<end_function_call>",
}
REQUIRED = CallDemand([WEATHER, SAY], required=True)
AUTO = CallDemand([STRICT, SAY], required=False)


@pytest.mark.parametrize("specials", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_demanded_call_is_what_the_family_writes(family: str, specials: bool) -> None:
    speaker, written = spoken(family, WEATHER, SAY, specials=specials), WRITTEN[family]
    assert speaker.fits(REQUIRED, written)
    for wrong in ("Hello.", "", written.replace("Paris", "Berlin"), written.replace("3", "77"), written[:-1]):
        assert not speaker.fits(REQUIRED, wrong), wrong
    assert not speaker.fits(REQUIRED, written.replace("get_weather", "get_time"))
    assert not speaker.fits(CallDemand([SAY], required=True), written)


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_fits_is_read_as_a_valid_call(family: str) -> None:
    speaker = spoken(family, WEATHER, max_calls=1)
    answers = [speaker.anything(CallDemand([WEATHER], required=True), Random(seed)) for seed in range(6)]
    assert len([answer for answer in answers if answer is not None]) >= 2
    for answer in filter(None, answers):
        ((name, arguments, ended),) = answer.calls
        value = json.loads(arguments)
        assert (name, ended, set(value)) == ("get_weather", True, {"city", "days"})
        assert value["city"] in ("Paris", "Rome")
        assert 1 <= value["days"] <= 9


@pytest.mark.parametrize("specials", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_strict_call_that_begins_is_valid_and_text_is_free(family: str, specials: bool) -> None:
    speaker, written = spoken(family, STRICT, SAY, specials=specials), WRITTEN[family]
    if family == "harmony":
        text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello {there}."
    else:
        text = "Hello, (there)."
    assert speaker.fits(AUTO, text)
    assert speaker.fits(AUTO, written)
    assert not speaker.fits(AUTO, written.replace("Paris", "Berlin"))
    assert not speaker.fits(AUTO, written.replace("get_weather", "get_time"))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_one_call_is_allowed_where_several_are_not_wanted(family: str) -> None:
    several = {"deepseek_v3", "deepseek_v31", "mistral_list"}
    written, between = WRITTEN[family], FAMILIES[family].form.between
    if family in several:
        opening, closing = FAMILIES[family].form.group or ("", "")
        inner = written.removeprefix(FAMILIES[family].form.trigger + opening).removesuffix(closing)
        twice = written.removesuffix(closing) + between + inner + closing
    else:
        twice = written + between + written
    if family != "harmony":
        assert spoken(family, WEATHER, SAY).fits(REQUIRED, twice)
    assert not spoken(family, WEATHER, SAY, max_calls=1).fits(REQUIRED, twice)


@pytest.mark.parametrize("specials", [True, False])
def test_a_model_that_reasons_may_do_so_first(specials: bool) -> None:
    free = spoken("hermes", WEATHER, SAY, specials=specials, tags=THINK)
    assert free.fits(REQUIRED, f"<think>\nHm, <b>.\n</think>\n\n{WRITTEN['hermes']}")
    assert free.fits(REQUIRED, WRITTEN["hermes"])
    begun = spoken("hermes", WEATHER, SAY, specials=specials, tags=THINK, begins_in_thought=True)
    assert begun.fits(REQUIRED, f"Hm.\n</think>\n\n{WRITTEN['hermes']}")
    assert not begun.fits(REQUIRED, WRITTEN["hermes"])


def test_an_answer_that_must_fit_a_schema_may_be_a_call_instead() -> None:
    demand = CallDemand([WEATHER], required=False, answer=grammar_of_schema({"type": "integer"}))
    speaker = spoken("hermes", WEATHER, tags=THINK)
    assert speaker.fits(demand, "42")
    assert speaker.fits(demand, f"<think>so</think>{WRITTEN['hermes']}")
    assert not speaker.fits(demand, "Hello")
    assert spoken("harmony", WEATHER).fits(demand, "<|channel|>final<|message|>42")
    assert not spoken("harmony", WEATHER).fits(demand, "<|channel|>final<|message|>Hello")
    alone = CallDemand([], required=False, answer=demand.answer)
    assert Spoken(Reading(tags=THINK, begins_in_thought=True), True).fits(alone, "so</think>\n42")
    assert grammar_of_answer(None, alone) == demand.answer
    assert grammar_of_answer(None, CallDemand([SAY], required=False)) == ""


def test_texts_without_quotes_go_up_to_their_mark_and_other_values_are_json() -> None:
    parameters = {
        "type": "object",
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
        "properties": {"words": {"type": "string"}, "at": {"$ref": "#/$defs/place"}, "unit": {"const": "c"}},
        "required": ["words"],
    }
    tool = Tool("say", "", parameters)
    speaker, demand = spoken("glm", tool), CallDemand([tool], required=True)
    head = "<tool_call>say\n<arg_key>words</arg_key>\n<arg_value>"
    place = '</arg_value>\n<arg_key>at</arg_key>\n<arg_value>{"x": 1}</arg_value>\n'
    assert speaker.fits(demand, head + 'All "of" it:\n{1}</arg_value>\n</tool_call>')
    assert speaker.fits(demand, head + place + "</tool_call>")
    assert not speaker.fits(demand, head + place.replace("1", "one") + "</tool_call>")
    fussy = Tool("say", "", {"properties": {"words": {"type": "string", "pattern": "a+"}}}, strict=True)
    with pytest.raises(Unsupported, match="cannot be held to 'pattern'"):
        grammar_of_answer(spoken("glm", fussy).reading, CallDemand([fussy], required=False))
    odd = Tool("say", "", {"properties": {"a>b": {"type": "string"}}})
    with pytest.raises(Unsupported, match="rename it"):
        grammar_of_answer(spoken("qwen3_coder", odd).reading, CallDemand([odd], required=True))
