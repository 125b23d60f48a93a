"""How a chat template wants its messages, and how a turn ends in it: tried with marked messages, not assumed.

Some templates take a message's content as a string, some as a list of parts, some the one for users and the other
for system messages; some take a call's arguments as an object, some as its JSON text. One that gets the wrong form
often loses the words without complaint. So a conversation of the same shape, whose contents are marks, goes first: the
form (`form`) is one in which every mark comes out.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from muster.text.calls import Ending, Failed, Message, Render, Tool, ToolCall
from muster.text.sandbox.form import Form, first_lost, forms_to_try, marked, shape
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


class Turns:
    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.source = template.source
        self._forms: OrderedDict[object, Form] = OrderedDict()

    def prompt(self, messages: Sequence[Message], variables: Mapping[str, Any], prompting: bool = True) -> str:
        """Raises `Refusal` where the template refuses the messages, or would leave one out."""
        ending = Ending.ASSISTANT_BEGINS if prompting else Ending.AFTER_LAST
        return self.render(Render(list(messages), dict(variables), ending=ending))

    def render(self, work: Render) -> str:
        """Raises `Refusal` where the template refuses the messages or tools, or would leave one out."""
        form = self._form_for(work)
        try:
            text = self._render(form, work)
        except (Refusal, MemoryError):
            raise
        except Exception as error:
            raise _refused(error) from error
        return cut_inside_last(text, work.messages[-1]) if work.ending == Ending.INSIDE_LAST else text

    def takes_tools(self) -> bool:
        """Definitions, calls and results all come out."""
        call = Message("assistant", "", tool_calls=(ToolCall("call00000", "f", "{}"),))
        result = Message("tool", "", "f", tool_call_id="call00000")
        asked = [Message("user", "")]
        return all(self._can(Render(messages, {}, [Tool("f", "", {})])) for messages in (asked, [*asked, call, result]))

    def takes_several_calls(self) -> bool:
        """In one message."""
        calls = tuple(ToolCall(f"call0000{i}", "f", "{}") for i in range(2))
        results = [Message("tool", "", "f", tool_call_id=call.id) for call in calls]
        asked = [Message("user", ""), Message("assistant", "", tool_calls=calls), *results]
        return self._can(Render(asked, {}, [Tool("f", "", {})]))

    def takes_system(self) -> bool:
        return self._can(Render([Message("system", ""), Message("user", "")], {}))

    def _can(self, work: Render) -> bool:
        try:
            self._find_form(marked(work))
        except Refusal as refusal:
            if refusal.failed.kind in ("refused", "lost"):
                return False
            raise
        return True

    def ends(self, names: Sequence[str]) -> list[str]:
        """Those of the tokens `names` that end a turn: what stands behind the assistant's words when another follows.

        Not where the assistant's turn begins otherwise than it is prompted for: such a model writes more than one
        message in a turn, and what ends a message does not end the turn.
        """
        known = [name for name in names if name in TURN_ENDS and name in self._template.source]
        talk = marked(Render([Message("user", ""), Message("assistant", ""), Message("user", "")], {})).messages
        try:
            whole = self.prompt(talk, {}, prompting=False)
            prompted = self.prompt(talk[:1], {})
        except Refusal as refusal:
            if refusal.failed.kind in ("refused", "lost"):
                return known
            raise
        before, found, after = whole.partition(talk[1].content)
        if not found or before[_length_of_common_start(before, prompted) :].strip():
            return known
        following = [name for name in names if name.strip() and after.lstrip().startswith(name)]
        return [*known, *sorted(following, key=len)[-1:]]

    def _form_for(self, work: Render) -> Form:
        key = (*shape(work), repr(sorted(work.variables.items())))
        form = self._forms.get(key)
        if form is None:
            form = self._find_form(marked(work))
            if len(work.messages) <= MAX_REMEMBERED_MESSAGES:
                self._forms[key] = form
                if len(self._forms) > MAX_REMEMBERED:
                    self._forms.popitem(last=False)
        return form

    def _find_form(self, work: Render) -> Form:
        refused: Refusal | None = None
        furthest, lost_there = -1, ""
        for form in forms_to_try(work, self._template.source):
            try:
                text = self._render(form, work)
            except (Refusal, MemoryError):
                raise
            except Exception as error:
                refused = refused or _refused(error)
                continue
            lost = first_lost(text, work, form)
            if lost is None:
                return form
            if lost[0] > furthest:
                furthest, lost_there = lost
        if furthest >= 0 or refused is None:
            raise Refusal(Failed("lost", lost_there))
        raise refused

    def _render(self, form: Form, work: Render) -> str:
        messages = [form.of(message) for message in work.messages]
        tools = [form.of_tool(tool) for tool in work.tools] or None
        return self._template.render(messages, work.variables, work.ending == Ending.ASSISTANT_BEGINS, tools)


def _length_of_common_start(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _refused(error: Exception) -> Refusal:
    return Refusal(Failed("refused", in_a_line(error)))


def cut_inside_last(text: str, last: Message) -> str:
    """The prompt up to where the last message's words end, so that they are gone on with."""
    words = last.content.strip()
    start = text.rfind(words)
    if start < 0:
        raise Refusal(Failed("lost", f"the end of the last message (from {last.role})"))
    space = last.content[len(last.content.rstrip()) :]
    end = start + len(words)
    return text[:end] + (space if text[end:].startswith(space) else "")
