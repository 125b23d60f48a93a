"""Which way of writing calls a model has, by its chat template. Knows no HTTP."""

from collections.abc import Sequence

from muster.text.calls import Tool
from muster.text.tokenizer import Tokenizer
from muster.text.tools.hermes import Hermes
from muster.text.tools.reading import Family, Reading, Tags
from muster.text.tools.turn import MAX_CALLS

FAMILIES: dict[str, Family] = {family.name: family for family in (Hermes(),)}
TAGS = (Tags("<think>", "</think>"),)
NONE = "none"


def family_of(template: str) -> Family:
    """Of a template that takes no tools, the one of the fallback prompt."""
    return FAMILIES["hermes"]


def tags_of(template: str) -> Tags | None:
    """What the model writes around its reasoning, if its template knows of any."""
    return next((tags for tags in TAGS if tags.end in template), None)


def reading_of(tokenizer: Tokenizer, prompt: str, tools: Sequence[Tool], max_calls: int = MAX_CALLS) -> Reading | None:
    """How answers to `prompt` are read. None where all of them is text."""
    template = tokenizer.conventions.source
    family, tags = (family_of(template) if tools else None), tags_of(template)
    if family is None and tags is None:
        return None
    marks = (*(family.marks if family else ()), *((tags.begin, tags.end) if tags else ()))
    named = {tokenizer.named(mark): mark.encode() for mark in marks}
    return Reading(
        family,
        frozenset(tool.name for tool in tools),
        tags,
        begins_in_thought=tags is not None and prompt.rstrip().endswith(tags.begin),
        max_calls=max_calls,
        spelled={id: spelled for id, spelled in named.items() if id is not None},
    )
