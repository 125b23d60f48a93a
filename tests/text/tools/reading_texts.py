"""A text, whole or in pieces, to what a reader makes of it. Knows no family."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from muster.text.tools.events import CallArguments, CallBegun, CallEnded, Event, Said, Thought
from muster.text.tools.reading import Reading


@dataclass
class Answer:
    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str, bool]] = field(default_factory=list)
    """Name, arguments, and whether they ended."""
    ids: list[str] = field(default_factory=list)


def answer_of(events: Iterable[Event]) -> Answer:
    answer = Answer()
    for event in events:
        match event:
            case Said(text):
                assert text
                answer.text += text
            case Thought(text):
                assert text
                assert not answer.calls
                answer.thought += text
            case CallBegun(index, id, name):
                assert index == len(answer.calls)
                answer.calls.append((name, "", False))
                answer.ids.append(id)
            case CallArguments(index, text):
                name, before, ended = answer.calls[index]
                assert index == len(answer.calls) - 1
                assert not ended
                answer.calls[index] = (name, before + text, False)
            case CallEnded(index):
                name, arguments, ended = answer.calls[index]
                assert not ended
                answer.calls[index] = (name, arguments, True)
    return answer


def read(reading: Reading, pieces: Sequence[str]) -> Answer:
    reader = reading.start("request")
    events: list[Event] = []
    for piece in pieces:
        events += reader.feed(piece)
    events += reader.finish()
    answer = answer_of(events)
    assert reader.turn.unfinished == (not all(ended for _, _, ended in answer.calls))
    return answer


def cut(text: str, places: Iterable[int]) -> list[str]:
    ends = sorted({place for place in places if 0 < place < len(text)})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def read_in_every_way(reading: Reading, text: str) -> Answer:
    """At once, character by character, and cut in two at every place: all the same."""
    whole = read(reading, [text])
    assert read(reading, list(text)) == whole
    for place in range(1, len(text)):
        assert read(reading, cut(text, [place])) == whole, text[:place] + "|" + text[place:]
    return whole
