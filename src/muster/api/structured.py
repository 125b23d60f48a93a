"""Fields that say what form an answer must have, as OpenAI's clients write them and as vLLM's do. Knows no routes.

    response_format                         text, json_object, json_schema                  OpenAI
    structured_outputs                      json, regex, choice, grammar, json_object       vLLM
    guided_json, guided_regex, ...          the same, as vLLM called it before

A schema is always enforced, whether it is called strict or not: what cannot be done is refused by name.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from muster.api.body import JsonWeight, TooMuch
from muster.api.conversation import Conversation
from muster.api.fields import Strict, at_most, check_unicode
from muster.api.serving import Serving, Visit
from muster.errors import InvalidRequest, Unsupported
from muster.spec.sampling import MAX_GRAMMAR_BYTES
from muster.text.constraint import (
    WHITESPACE,
    any_object,
    grammar_of_choice,
    grammar_of_regex,
    grammar_of_schema,
)

MAX_CHOICES = 10_000
MAX_EXPRESSION_CHARACTERS = 50_000


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer must be."""

    parameter: str
    """The field that asks for it."""
    grammar: str
    """Not tried yet."""


class StructuredFields(Strict):
    response_format: Any = Field(
        default=None,
        description='{"type": "text"}, {"type": "json_object"}, or {"type": "json_schema", "json_schema": {"name", '
        '"schema", "strict"}}; a schema is enforced whether strict or not.',
    )
    structured_outputs: Any = Field(
        default=None,
        description="One of json, regex, choice, grammar (Lark or GBNF) and json_object; besides, whitespace_pattern "
        "and disable_any_whitespace.",
    )
    guided_json: Any = Field(default=None, description="structured_outputs.json, as it was called before.")
    guided_regex: str | None = None
    guided_choice: Annotated[list[str] | None, at_most(MAX_CHOICES, "guided_choice")] = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    @property
    def structure(self) -> AnswerForm | None:
        """What the answer must be; None for anything. Raises `InvalidRequest`, also where two fields ask for it."""
        whitespace = self.guided_whitespace_pattern
        older = {name.removeprefix("guided_"): getattr(self, name) for name in _OLDER}
        given = [
            structure
            for structure in (
                structure_of_format(self.response_format, "response_format"),
                _structure_of(self.structured_outputs, "structured_outputs"),
                *(_read(kind, value, f"guided_{kind}", whitespace or WHITESPACE) for kind, value in older.items()),
            )
            if structure is not None
        ]
        if len(given) > 1:
            raise InvalidRequest(
                f"{given[0].parameter} and {given[1].parameter} both say what the answer must be; send one of them.",
                given[1].parameter,
            )
        return given[0] if given else None


_OLDER = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


async def checked_grammar(serving: Serving, visit: Visit, structure: AnswerForm | None) -> str:
    """For `Sampling.grammar`; empty for none. Raises `InvalidRequest` that names the field, and what cannot be done."""
    if structure is None:
        return ""
    parameter = structure.parameter
    if len(structure.grammar) > MAX_GRAMMAR_BYTES:
        limit = f"{MAX_GRAMMAR_BYTES / 2**20:g} MiB"
        raise InvalidRequest(f"{parameter} has more than {limit}; ask for less structure.", parameter)
    try:
        grammar = check_unicode(structure.grammar, parameter)
        return await asyncio.wrap_future(serving.tokenizer.grammars.checking(grammar, visit.owner))
    except InvalidRequest as error:
        raise InvalidRequest(f"{parameter} cannot be done: {error}; change that part.", parameter) from None


async def constrained(
    serving: Serving, visit: Visit, conversation: Conversation, structure: AnswerForm | None
) -> Conversation:
    """The conversation with what its answer must be. Raises `InvalidRequest`."""
    return replace(conversation, grammar=await checked_grammar(serving, visit, structure) or None)


def structure_of_schema(schema: Any, parameter: str) -> AnswerForm:
    """Of a bare schema, or the word `json` for any object."""
    return AnswerForm(parameter, any_object()) if schema == "json" else _of_json(schema, parameter, WHITESPACE)


def structure_of_format(written: Any, parameter: str) -> AnswerForm | None:
    """`response_format` of chats, and `text.format` of responses, which has no inner object."""
    if written is None:
        return None
    kind = written.get("type") if isinstance(written, dict) else None
    match kind:
        case "text":
            return None
        case "json_object":
            return AnswerForm(parameter, any_object())
        case "json_schema":
            inner = written.get("json_schema", written)
            path = f"{parameter}.json_schema" if "json_schema" in written else parameter
            if not isinstance(inner, dict) or inner.get("schema") is None:
                raise InvalidRequest("There is no schema; send one.", f"{path}.schema")
            if not isinstance(inner.get("strict"), bool | None):
                raise InvalidRequest("strict is neither true nor false; send one of them.", f"{path}.strict")
            return _of_json(inner["schema"], f"{path}.schema", WHITESPACE)
        case "structural_tag":
            raise Unsupported("This server does not do structural tags; send tools, or a grammar.", parameter)
    raise InvalidRequest(
        "The type of the format is none of text, json_object and json_schema; send one of them.", f"{parameter}.type"
    )


def _structure_of(written: Any, parameter: str) -> AnswerForm | None:
    """vLLM's `structured_outputs`."""
    if written is None:
        return None
    if not isinstance(written, dict):
        raise InvalidRequest(f"{parameter} is not an object; send one.", parameter)
    given = {name: value for name, value in written.items() if value is not None and value is not False}
    for name in given:
        if name in _NOT_DONE:
            raise Unsupported(f"This server does not do '{name}'; leave it out.", f"{parameter}.{name}")
        if name not in _READERS and name not in _STYLES:
            raise InvalidRequest(
                f"{parameter} has a field that nobody knows; send one of {', '.join(_READERS)}.",
                f"{parameter}.{str(name)[:100]}",
            )
    kinds = [name for name in given if name in _READERS]
    if len(kinds) != 1:
        said = "nothing" if not kinds else " and ".join(kinds)
        raise InvalidRequest(f"{parameter} asks for {said}; send one of {', '.join(_READERS)}.", parameter)
    whitespace = None if given.get("disable_any_whitespace") else given.get("whitespace_pattern", WHITESPACE)
    return _read(kinds[0], given[kinds[0]], f"{parameter}.{kinds[0]}", whitespace)


def _read(kind: str, value: Any, parameter: str, whitespace: Any) -> AnswerForm | None:
    if value is None:
        return None
    if not isinstance(whitespace, str | None):
        raise InvalidRequest("whitespace_pattern is not text; send an expression.", "whitespace_pattern")
    return _READERS[kind](value, parameter, whitespace)


def _of_json(value: Any, parameter: str, whitespace: str | None) -> AnswerForm:
    if isinstance(value, str):
        value = _parsed(value, parameter)
    if not isinstance(value, dict | bool):
        raise InvalidRequest("This is not a JSON schema; send an object.", parameter)
    try:
        return AnswerForm(parameter, grammar_of_schema(value, whitespace))
    except InvalidRequest as error:
        raise InvalidRequest(str(error), parameter) from None


def _parsed(text: str, parameter: str) -> Any:
    """JSON in a string was not weighed with the body around it."""
    try:
        JsonWeight().add(text.encode("utf-8", errors="surrogatepass"))
        return json.loads(text)
    except TooMuch as error:
        raise InvalidRequest(f"The schema is too much to read: {error}; send a smaller one.", parameter) from None
    except (ValueError, RecursionError):
        raise InvalidRequest("This is not a JSON schema; send valid JSON.", parameter) from None


def _of_regex(value: Any, parameter: str, whitespace: str | None) -> AnswerForm:
    expression = _text(value, parameter)
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        raise InvalidRequest(
            f"The expression has more than {MAX_EXPRESSION_CHARACTERS} characters; shorten it.", parameter
        )
    return AnswerForm(parameter, grammar_of_regex(expression))


def _of_choice(value: Any, parameter: str, whitespace: str | None) -> AnswerForm:
    if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
        raise InvalidRequest("The choices are not a list of texts; send at least one.", parameter)
    if len(value) > MAX_CHOICES:
        raise InvalidRequest(f"There are more than {MAX_CHOICES} choices; send fewer.", parameter)
    return AnswerForm(parameter, grammar_of_choice([check_unicode(choice, parameter) for choice in value]))


def _of_grammar(value: Any, parameter: str, whitespace: str | None) -> AnswerForm:
    return AnswerForm(parameter, _text(value, parameter))


def _of_any_object(value: Any, parameter: str, whitespace: str | None) -> AnswerForm:
    if value is not True:
        raise InvalidRequest("json_object is neither true nor false; send one of them.", parameter)
    return AnswerForm(parameter, any_object(whitespace))


def _text(value: Any, parameter: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{parameter} is not text; send text.", parameter)
    return check_unicode(value, parameter)


_READERS: Mapping[str, Callable[[Any, str, str | None], AnswerForm]] = {
    "json": _of_json,
    "regex": _of_regex,
    "choice": _of_choice,
    "grammar": _of_grammar,
    "json_object": _of_any_object,
}
_STYLES = ("whitespace_pattern", "disable_any_whitespace", "disable_fallback")
_NOT_DONE = ("structural_tag", "disable_additional_properties")
