"""GPT-OSS: an answer is a few messages, each on a channel (https://github.com/openai/harmony).

    <|channel|>analysis<|message|>They want to know ...<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Paris"}<|call|>

What is on `analysis` is reasoning; `final`, and `commentary` to nobody, is text. What stands before the first header is
text, too.
"""

import re

from muster.text.tools.arguments import text_until
from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import arguments
from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt, begin_call

CHANNEL, MESSAGE, START, CONSTRAIN = "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
TO = re.compile(r"\bto=functions\.([a-zA-Z0-9_.-]{1,128})")


class Harmony:
    name = "harmony"
    marks = (CHANNEL, MESSAGE, START, CONSTRAIN, *ENDS)
    always = True
    form = CallForm(CHANNEL, f"commentary to=functions.NAME {CONSTRAIN}json{MESSAGE}", "")

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        space = yield from source.space()
        mark: str | None = ""
        if not (yield from source.peek(3)).startswith(("<|", "to=")):
            turn.say(space)
            mark = yield from source.until((CHANNEL, START), turn.say)
        while mark is not None:
            ends: list[str | None] = []
            if (yield from attempt(source, turn, _message(source, turn, ends), mark)) and turn.unfinished:
                return
            mark = START if ends == [START] else (yield from source.until((CHANNEL, START), turn.say))


def _message(source: Source, turn: AssistantTurn, ends: list[str | None]) -> Steps[None]:
    """What ended it goes into `ends`."""
    header = yield from text_until(source, MESSAGE)
    to = TO.search(header)
    if to is None:
        source.end_attempt()
        turn.end_block()
        take = turn.think if "analysis" in header else turn.say
        ends.append((yield from source.until((*ENDS, START), take)))
        turn.end_block()
        return
    yield from source.space()
    if (yield from source.peek()) != "{":
        raise NoCall
    begin_call(source, turn, to[1])
    if (yield from arguments(source, turn)):
        ends.append((yield from source.until((*ENDS, START), _nowhere)))


def _nowhere(text: str) -> None:
    pass
