"""How a chat template wants its messages, and how a turn ends in it: tried with marked messages, not assumed.

Some templates take a message's content as a string, some as a list of parts, some the one for users and the other
for system messages. One that gets the wrong form often loses the words without complaint. So a conversation of the
same roles, whose contents are marks, goes first: the form is one in which every mark comes out.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from muster.text.calls import Failed, Message
from muster.text.sandbox.loop import Refusal, in_a_line
from muster.text.sandbox.template import ChatTemplate

MAX_REMEMBERED = 256
MAX_REMEMBERED_MESSAGES = 64
"""Longer conversations are tried each time: keys would take memory, and rendering takes longer anyway."""

TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>",
)
"""Tokens that end a turn in any template that writes them."""


@dataclass(frozen=True, slots=True)
class Form:
    developer: str
    """The role under which developers speak."""
    in_parts: frozenset[str]
    """Roles whose content is a list of parts."""

    def of(self, message: Message) -> dict[str, Any]:
        role = self.developer if message.role == "developer" else message.role
        parts = [{"type": "text", "text": message.content}]
        fields: dict[str, Any] = {"role": role, "content": parts if role in self.in_parts else message.content}
        return fields if message.name is None else {**fields, "name": message.name}


class Turns:
    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._forms: OrderedDict[object, Form] = OrderedDict()

    def prompt(self, messages: Sequence[Message], variables: Mapping[str, Any], prompting: bool = True) -> str:
        """Raises `Refusal` where the template refuses the messages, or would leave one out."""
        form = self._form_for(messages, variables)
        try:
            return self._render(form, messages, variables, prompting)
        except (Refusal, MemoryError):
            raise
        except Exception as error:
            raise _refused(error) from error

    def ends(self, names: Sequence[str]) -> list[str]:
        """Those of the tokens `names` that end a turn: what stands behind the assistant's words when another follows.

        Not where the assistant's turn begins otherwise than it is prompted for: such a model writes more than one
        message in a turn, and what ends a message does not end the turn.
        """
        known = [name for name in names if name in TURN_ENDS and name in self._template.source]
        marked = _marked([Message("user", ""), Message("assistant", ""), Message("user", "")])
        try:
            whole = self.prompt(marked, {}, prompting=False)
            prompted = self.prompt(marked[:1], {})
        except Refusal as refusal:
            if refusal.failed.kind in ("refused", "lost"):
                return known
            raise
        before, found, after = whole.partition(marked[1].content)
        if not found or before[_length_of_common_start(before, prompted) :].strip():
            return known
        following = [name for name in names if name.strip() and after.lstrip().startswith(name)]
        return [*known, *sorted(following, key=len)[-1:]]

    def _form_for(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> Form:
        key = (tuple((message.role, message.name is None) for message in messages), repr(sorted(variables.items())))
        form = self._forms.get(key)
        if form is None:
            form = self._find_form(_marked(messages), variables)
            if len(messages) <= MAX_REMEMBERED_MESSAGES:
                self._forms[key] = form
                if len(self._forms) > MAX_REMEMBERED:
                    self._forms.popitem(last=False)
        return form

    def _find_form(self, marked: Sequence[Message], variables: Mapping[str, Any]) -> Form:
        refused: Refusal | None = None
        furthest = -1
        for form in self._forms_to_try({message.role for message in marked}):
            try:
                text = self._render(form, marked, variables)
            except (Refusal, MemoryError):
                raise
            except Exception as error:
                refused = refused or _refused(error)
                continue
            lost = _first_lost(_without_printed_parts(text) if form.in_parts else text, marked)
            if lost is None:
                return form
            furthest = max(furthest, lost)
        if furthest >= 0 or refused is None:
            raise Refusal(Failed("lost", f"messages[{furthest}] (from {marked[furthest].role})"))
        raise refused

    def _forms_to_try(self, roles: set[str]) -> Iterator[Form]:
        """Strings first: most templates want them, and one that prints what it gets would print the parts' names."""
        developers = ("developer", "system") if "developer" in self._template.source else ("system",)
        for developer in developers if "developer" in roles else ("system",):
            here = sorted({developer if role == "developer" else role for role in roles}, reverse=True)
            for count in range(len(here) + 1):
                yield from (Form(developer, frozenset(in_parts)) for in_parts in combinations(here, count))

    def _render(
        self, form: Form, messages: Sequence[Message], variables: Mapping[str, Any], prompting: bool = True
    ) -> str:
        return self._template.render([form.of(message) for message in messages], variables, prompting)


def _marked(messages: Sequence[Message]) -> list[Message]:
    return [Message(message.role, f"qz{i}zq", message.name) for i, message in enumerate(messages)]


def _first_lost(text: str, marked: Sequence[Message]) -> int | None:
    text = text.lower()
    return next((i for i, message in enumerate(marked) if message.content not in text), None)


def _without_printed_parts(text: str) -> str:
    """A template that wants a string prints a list as such, with braces and names: that is no form, either."""
    return re.sub(r"""["']text["']:\s*["'][^"']*["']""", "", text)


def _length_of_common_start(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _refused(error: Exception) -> Refusal:
    return Refusal(Failed("refused", in_a_line(error)))
