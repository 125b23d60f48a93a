"""What a person types in `muster chat`, without a terminal and without a model."""

import pytest

from muster.cli.conversation import Chat, read_message


def message_of(*lines: str) -> str:
    waiting = iter(lines)

    def read_line(goes_on: bool) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return read_message(read_line)


def test_quotation_marks_hold_several_lines_together() -> None:
    assert message_of("one", "two") == "one"
    assert message_of('"""def f():', "    return 1", '"""', "rest") == "def f():\n    return 1"
    assert message_of('"""all in one"""') == "all in one"
    assert message_of('"""', "never closed") == "never closed"
    with pytest.raises(EOFError):
        message_of()


def test_a_conversation_is_kept_until_it_begins_anew() -> None:
    talk = Chat("Be brief.")
    assert talk.take("hello") == ("answer", "")
    talk.answered("Hi")
    assert [m["content"] for m in talk.messages()] == ["Be brief.", "hello", "Hi"]
    assert talk.take("/undo") == ("tell", "0 exchanges are left.")
    assert [m["content"] for m in talk.messages()] == ["Be brief."]
    talk.take("again")
    assert talk.take("/new")[0] == "tell"
    assert talk.messages() == [{"role": "system", "content": "Be brief."}]
    talk.take("/system Be long.")
    assert talk.messages() == [{"role": "system", "content": "Be long."}]
    talk.take("/system")
    assert talk.messages() == []


def test_a_command_is_told_from_a_text_that_begins_like_one() -> None:
    talk = Chat()
    assert talk.take("/exit") == ("end", "")
    turn, told = talk.take("/nwe")
    assert turn == "tell"
    assert "/new" in told
    assert talk.take("/etc/hosts is a file")[0] == "answer"
    assert talk.take("/new\nis what I typed")[0] == "answer"
    assert [m["role"] for m in talk.messages()] == ["user", "user"]
