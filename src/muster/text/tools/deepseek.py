"""DeepSeek: each call between tokens of its own, all of them together between two more.

V3.1:   <｜tool▁calls▁begin｜>
        <｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>
        <｜tool▁calls▁end｜>                                             (all in one line)

V3, R1: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
        ```json
        {"city": "Paris"}
        ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from muster.text.tools.arguments import text_until
from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import arguments
from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt, begin_call

ALL_BEGIN, ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


class DeepSeek:
    marks = (ALL_BEGIN, ALL_END, BEGIN, SEPARATOR, END)
    always = False

    def __init__(self, fenced: bool) -> None:
        """`fenced`: the form of V3. Both are read."""
        self.name = "deepseek_v3" if fenced else "deepseek_v31"
        self.form = (
            CallForm(ALL_BEGIN, f"{BEGIN}function{SEPARATOR}NAME\n```json\n", "\n```" + END, "\n", group=("", ALL_END))
            if fenced
            else CallForm(ALL_BEGIN, f"{BEGIN}NAME{SEPARATOR}", END, group=("", ALL_END))
        )

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        while (mark := (yield from source.until((ALL_BEGIN, BEGIN, ALL_END), turn.say))) is not None:
            if mark != BEGIN:
                turn.end_block()
            elif (yield from attempt(source, turn, _call(source, turn), BEGIN)) and not turn.unfinished:
                yield from source.until((END,), _nowhere)
                turn.end_block()


def _call(source: Source, turn: AssistantTurn) -> Steps[None]:
    name = (yield from text_until(source, SEPARATOR)).strip()
    if (yield from source.peek()) != "{":
        name = (yield from text_until(source, "\n")).strip()
        yield from source.space()
        yield from source.skip("```json")
        yield from source.space()
    if (yield from source.peek()) != "{":
        raise NoCall
    begin_call(source, turn, name)
    yield from arguments(source, turn)


def _nowhere(text: str) -> None:
    pass
