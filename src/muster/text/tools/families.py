"""Which way of writing calls a model has, by its chat template. Knows no HTTP."""

from collections.abc import Sequence

from muster.errors import InvalidRequest
from muster.text.calls import Tool
from muster.text.tokenizer import Tokenizer
from muster.text.tools.deepseek import BEGIN as DEEPSEEK_CALL
from muster.text.tools.deepseek import DeepSeek
from muster.text.tools.gemma import Gemma
from muster.text.tools.harmony import Harmony
from muster.text.tools.hermes import Hermes
from muster.text.tools.llama import Llama
from muster.text.tools.mistral import ARGUMENTS, CALLS, Mistral
from muster.text.tools.reading import ModelFamily, Reading, Tags
from muster.text.tools.turn import MAX_CALLS
from muster.text.tools.xml_calls import Glm, QwenCoder

_ALL: tuple[ModelFamily, ...] = (
    Hermes(),
    QwenCoder(),
    Llama(),
    Mistral(listed=False),
    Mistral(listed=True),
    Harmony(),
    DeepSeek(fenced=False),
    DeepSeek(fenced=True),
    Glm(),
    Gemma("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>'),
    Gemma("functiongemma", "<start_function_call>", "<end_function_call>", "<escape>"),
)
FAMILIES = {family.name: family for family in _ALL}
FALLBACK = "hermes"
"""What the fallback prompt asks for."""
AUTO, NONE = "auto", "none"
NAMES = (AUTO, NONE, *FAMILIES)
"""What `--tool-parser` takes."""

TEMPLATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|channel|>", "<|message|>")),
    ("deepseek_v3", (DEEPSEEK_CALL, "```json")),
    ("deepseek_v31", (DEEPSEEK_CALL,)),
    ("mistral", (CALLS, ARGUMENTS)),
    ("mistral_list", (CALLS,)),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("glm", ("<arg_key>", "<arg_value>")),
    ("gemma4", ("<|tool_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("hermes", ("<tool_call>",)),
    ("llama3_json", ("<|start_header_id|>",)),
)
"""The first of which a template holds all the words."""

TAGS = (
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|channel>thought\n", "<channel|>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<reasoning>", "</reasoning>"),
)


def check_choice(name: str) -> str:
    """What the operator chose. Raises `InvalidRequest`."""
    if name not in NAMES:
        raise InvalidRequest(f"There is no tool parser '{name}'; choose one of {', '.join(NAMES)}.", "tool_parser")
    return name


def family_of(tokenizer: Tokenizer, chosen: str = AUTO) -> ModelFamily:
    """The family `chosen`, else that of the model's template; that of the fallback prompt where this knows no tools."""
    if chosen in FAMILIES:
        return FAMILIES[chosen]
    conventions = tokenizer.conventions
    found = named_by(conventions.source)
    return FAMILIES[found if conventions.takes_tools or FAMILIES[found].always else FALLBACK]


def named_by(template: str) -> str:
    return next((name for name, words in TEMPLATES if all(word in template for word in words)), FALLBACK)


def tags_of(template: str) -> Tags | None:
    """What the model writes around its reasoning, if its template knows of any."""
    return next((tags for tags in TAGS if tags.end in template), None)


def reading_of(
    tokenizer: Tokenizer, prompt: str, tools: Sequence[Tool], max_calls: int = MAX_CALLS, chosen: str = AUTO
) -> Reading | None:
    """How answers to `prompt` are read. None where all of them is text."""
    if chosen == NONE:
        return None
    found = family_of(tokenizer, chosen)
    family = found if tools or found.always else None
    tags = None if found.always else tags_of(tokenizer.conventions.source)
    if family is None and tags is None:
        return None
    marks = (*(family.marks if family else ()), *(tags.marks if tags else ()))
    named = {tokenizer.named(mark): mark.encode() for mark in marks}
    return Reading(
        family,
        {tool.name: tool.parameters for tool in tools},
        tags,
        begins_in_thought=tags is not None and prompt.rstrip().endswith(tags.begin.strip()),
        max_calls=max_calls,
        spelled={id: spelled for id, spelled in named.items() if id is not None},
    )
