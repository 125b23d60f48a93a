"""A text that comes in pieces, read as if it were all there. Knows nothing of what is looked for.

A parser is a generator over a `Source`: it asks for what it wants, and pauses (`yield`) wherever more text is needed
to know. So it reads like a parser of a whole text, and how the text was cut cannot change what it finds. Every text is
looked at once, whatever is in it.
"""

import json
import re
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""A piece of a parser. It yields where it waits for more text."""
Take = Callable[[str], None]

MAX_HEAD_CHARACTERS = 65_536
"""A call has told its name by then, or it is none: so much of a text may be held back at most."""
_SPACE = re.compile(r"\s*")
_WITHIN_STRING = re.compile(r'["\\]')
_OUTSIDE_STRINGS = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[\s,\]}\[{\"]")


class NoCall(Exception):
    """What looked like a call is none."""


class Source:
    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._attempt: list[str] | None = None
        self._attempted = 0

    def add(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        self._ended = True

    def more(self) -> Steps[bool]:
        """Wait for more text. False when there is none."""
        held = len(self._text) - self._at
        while len(self._text) - self._at == held:
            if self._ended:
                return False
            yield
        return True

    def begin_attempt(self) -> None:
        """From here on it may turn out to be no call: all that is read is remembered."""
        self._attempt, self._attempted = [], 0

    def end_attempt(self) -> str | None:
        """What was read since it began; None if it has ended already."""
        read = None if self._attempt is None else "".join(self._attempt)
        self._attempt = None
        return read

    def peek(self, count: int = 1) -> Steps[str]:
        """The next characters, fewer only at the end."""
        while len(self._text) - self._at < count and (yield from self.more()):
            pass
        return self._text[self._at : self._at + count]

    def skip(self, word: str) -> Steps[bool]:
        """Read `word` if it comes next."""
        while True:
            here = self._text[self._at : self._at + len(word)]
            if here == word:
                self._read(len(word))
                return True
            if not word.startswith(here) or not (yield from self.more()):
                return False

    def space(self) -> Steps[str]:
        """Read white space, maybe none."""
        found = []
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            found.append(self._read(match.end() - self._at))
            if self._at < len(self._text) or not (yield from self.more()):
                return "".join(found)

    def until(self, marks: tuple[str, ...], take: Take) -> Steps[str | None]:
        """Read up to the first of `marks` and over it; None at the end. None of them begins another."""
        pattern = re.compile("|".join(map(re.escape, marks)))
        while True:
            match = pattern.search(self._text, self._at)
            if match is not None:
                take(self._read(match.start() - self._at))
                return self._read(len(match[0]))
            take(self._read(len(self._text) - self._at - self._possible_beginning(marks)))
            if not (yield from self.more()):
                take(self._read(len(self._text) - self._at))
                return None

    def rest(self, take: Take) -> Steps[None]:
        """Read all that comes."""
        while True:
            take(self._read(len(self._text) - self._at))
            if not (yield from self.more()):
                return

    def matching(self, pattern: re.Pattern[str], take: Take) -> Steps[str]:
        """Read up to what `pattern`, of one character, matches: that one comes next. Empty at the end."""
        while True:
            match = pattern.search(self._text, self._at)
            if match is not None:
                take(self._read(match.start() - self._at))
                return match[0]
            take(self._read(len(self._text) - self._at))
            if not (yield from self.more()):
                return ""

    def json_value(self, take: Take) -> Steps[bool]:
        """Read a value of JSON, looked at only as far as is needed to find its end. False if that does not come."""
        first = yield from self.peek()
        if first not in ('"', "{", "["):
            return bool((yield from self.matching(_SCALAR_END, take)))
        depth, in_string = 0, False
        while True:
            mark = yield from self.matching(_WITHIN_STRING if in_string else _OUTSIDE_STRINGS, take)
            if not mark:
                return False
            if mark == "\\" and len((yield from self.peek(2))) < 2:
                take(self._read(1))
                return False
            take(self._read(2 if mark == "\\" else 1))
            if mark == '"':
                in_string = not in_string
            elif mark != "\\":
                depth += 1 if mark in "{[" else -1
            if depth <= 0 and not in_string:
                return True

    def json_text(self) -> Steps[str]:
        """Read a string of JSON. Raises `NoCall` if none comes."""
        written: list[str] = []
        if (yield from self.peek()) != '"' or not (yield from self.json_value(written.append)):
            raise NoCall
        try:
            text: str = json.loads("".join(written), strict=False)
            text.encode()
        except ValueError:
            raise NoCall from None
        return text

    def _read(self, count: int) -> str:
        start, self._at = self._at, self._at + count
        if self._attempt is None:
            return self._text[start : self._at]
        over = self._attempted + count - MAX_HEAD_CHARACTERS
        self._at -= max(0, over)
        read = self._text[start : self._at]
        self._attempt.append(read)
        self._attempted += len(read)
        if over > 0:
            raise NoCall
        return read

    def _possible_beginning(self, marks: tuple[str, ...]) -> int:
        """Length of the longest end of the text that may begin a mark."""
        longest = min(max(map(len, marks)) - 1, len(self._text) - self._at)
        for length in range(longest, 0, -1):
            if any(mark.startswith(self._text[-length:]) for mark in marks):
                return length
        return 0
