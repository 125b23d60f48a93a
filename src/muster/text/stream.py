"""Tokens to text as they come, up to a stop string. Knows nothing of requests, log probabilities or HTTP.

    tokens ──bytes──> UTF-8 decoder ──characters──> stop strings ──> released text
                      holds an unfinished           hold what may be the
                      character back                beginning of a stop string

What is released never changes, never ends in half a character, and does not depend on how the tokens were grouped:
its concatenation is the decoded text, cut before the stop string that completes first.
"""

from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """A token whose text has been released whole."""

    index: int
    """Its place among all tokens that were pushed."""
    start: int
    """Characters of the text before it."""


@dataclass(frozen=True, slots=True)
class Released:
    text: str
    tokens: tuple[TokenSpan, ...]


class StopStrings:
    """Cuts a text before the first stop string, holding back only what may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that is now certain to come before any stop string."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        text = self._held + text
        first = self._first_completed(text)
        if first is not None:
            start, self.matched = first
            self._held = ""
            return text[:start]
        keep = self._possible_beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held

    def _first_completed(self, text: str) -> tuple[int, str] | None:
        """The match that ends first (the longest of several): the one that character-wise reading would meet."""
        found = [(text.find(stop), stop) for stop in self._stops]
        ends = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if not ends:
            return None
        _, start, stop = min(ends)
        return start, stop

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, and goes on."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)


class TextStream:
    """One output. `push` each token, then `finish`; `stopped` says that a stop string ended it."""

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        stops: Sequence[str] = (),
        stops_after_tokens: int = 0,
        places_tokens: bool = True,
    ) -> None:
        """The text of the first `stops_after_tokens` tokens is not looked at for stop strings. Where nobody asks for
        the places of the tokens (`places_tokens`), only text is released."""
        self._places_tokens = places_tokens
        self._token_bytes = token_bytes
        self._stops_after_tokens = stops_after_tokens
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stops)
        self._waiting: deque[tuple[TokenSpan, int]] = deque()
        """Tokens not yet released, each with the number of characters that must be out before it is."""
        self._decoded = 0
        self._released = 0
        self._pushed = 0

    @property
    def stopped(self) -> bool:
        return self._stops.matched is not None

    @property
    def stop(self) -> str | None:
        """The stop string that ended it."""
        return self._stops.matched

    @property
    def pushed(self) -> int:
        """Tokens pushed so far."""
        return self._pushed

    def push(self, token: int) -> Released:
        number, start = self._pushed, self._decoded
        self._pushed += 1
        text = self._decoder.decode(self._token_bytes(token))
        self._decoded += len(text)
        if self._places_tokens:
            unfinished = bool(self._decoder.getstate()[0])
            self._waiting.append((TokenSpan(number, start), self._decoded + unfinished))
        return self._release(self._stops.push(text) if self._pushed > self._stops_after_tokens else text)

    def finish(self) -> Released:
        """Everything still held; an unfinished character becomes U+FFFD. After a stop string there is nothing."""
        if self.stopped:
            return Released("", ())
        tail = self._stops.push(self._decoder.decode(b"", final=True))
        if not self.stopped:
            tail += self._stops.finish()
        released = self._release(tail)
        rest = () if self.stopped else tuple(span for span, _ in self._waiting)
        self._waiting.clear()
        return Released(released.text, released.tokens + rest)

    def _release(self, text: str) -> Released:
        self._released += len(text)
        tokens = []
        while self._waiting and self._is_out(*self._waiting[0]):
            tokens.append(self._waiting.popleft()[0])
        if self.stopped:
            self._waiting.clear()
        return Released(text, tuple(tokens))

    def _is_out(self, span: TokenSpan, end: int) -> bool:
        # After a stop string a token counts as soon as some of its text was kept: the cut may run through it.
        return end <= self._released or (self.stopped and span.start < self._released)
