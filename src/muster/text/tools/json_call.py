"""A call that is one object of JSON: `{"name": …, "arguments": {…}}`. Knows no marks around it."""

from collections.abc import Collection

from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, begin_call

_ARGUMENTS = ("arguments", "parameters")


def json_call(source: Source, turn: AssistantTurn, names: Collection[str] | None = None) -> Steps[None]:
    """Raises `NoCall` unless the object names a tool, one of `names` if they are given."""
    if not (yield from source.skip("{")):
        raise NoCall
    name, early, argued = "", "", False
    while True:
        key = yield from _key(source)
        if argued:
            yield from source.json_value(_nowhere)
        elif key == "name" and not name:
            name = yield from source.json_text()
            if names is not None and name not in names:
                raise NoCall
        elif key in _ARGUMENTS and name:
            begin_call(source, turn, name)
            argued = yield from arguments(source, turn)
            if not argued:
                return
        elif key in _ARGUMENTS:
            early = yield from _value(source)
        else:
            yield from _value(source)
        yield from source.space()
        if not (yield from source.skip(",")):
            break
    if argued:
        yield from source.skip("}")
        return
    if not name or not (yield from source.skip("}")):
        raise NoCall
    begin_call(source, turn, name)
    turn.argue(early if early.startswith("{") else "{}")
    turn.end()


def arguments(source: Source, turn: AssistantTurn) -> Steps[bool]:
    """The arguments of the call that has begun. False if they break off."""
    first = yield from source.peek()
    if first == "{":
        complete = yield from source.json_value(turn.argue)
    elif first == '"':  # some models write the object's text as a string
        try:
            turn.argue((yield from source.json_text()))
            complete = True
        except NoCall:
            complete = False
    else:
        complete = yield from source.json_value(_nowhere)
        if complete:
            turn.argue("{}")
    if complete:
        turn.end()
    return complete


def _key(source: Source) -> Steps[str]:
    yield from source.space()
    key = yield from source.json_text()
    yield from source.space()
    if not (yield from source.skip(":")):
        raise NoCall
    yield from source.space()
    return key


def _value(source: Source) -> Steps[str]:
    written: list[str] = []
    if not (yield from source.json_value(written.append)):
        raise NoCall
    return "".join(written)


def _nowhere(text: str) -> None:
    pass
