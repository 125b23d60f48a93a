"""A pipeline as the place that sends it requests sees it: what it owes, how fast it was, what it may have cached. Pure.

owed      tokens that its requests still need, prompts counted at a part of that
token_s   between two tokens of one stream, the least that was seen lately
rate      tokens a second of all its streams: the most that was seen, or as forecast until it had many at once
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from muster.serve.pages import ROOT, page_digest
from muster.sim.serve.dispatch import Speed
from muster.spec.capacity import Capacity
from muster.spec.request import Priority, Request

PROMPT_TOKENS = 16
"""So many tokens of a prompt cost about as much as one that is generated: they are computed together."""
MANY = 8
"""Streams at once: with so many a pipeline shows what it can do."""
WINDOW_S = 1.0
"""Tokens are counted over so long."""
SAMPLE = 8
"""Tokens of one stream over which its pace is taken: they may arrive in lumps."""
DRIFT = 0.02
"""How fast a pace that got worse is believed."""
GAP_DECAY = 0.95
MAX_CAUTION = 64.0
MAX_PAGES = 8192
"""Whose digests are remembered of one pipeline."""
MAX_HASHED_PAGES = 512
"""Of one prompt: a longer common beginning makes no other choice."""


@dataclass(slots=True)
class OpenRoute:
    epoch: int
    capacity: Capacity
    heard_s: float
    """When tokens last came, or since when some are due."""
    owed: dict[Priority, float] = field(default_factory=lambda: dict.fromkeys(Priority, 0.0))
    prompts: float = 0.0
    """Of that, for the prompts of streams that have not begun."""
    streams: int = 0
    begun: int = 0
    """Streams that have had a token from here."""
    token_s: float = 0.0
    rate: float = 0.0
    last_rate: float = 0.0
    """Tokens a second when they were last counted."""
    most_streams: int = 0
    """With so many `rate` was seen."""
    gap_s: float = 0.0
    """The longest time between tokens of any stream, lately."""
    doubted_s: float | None = None
    """Since when it is silent although streams wait for their next tokens."""
    caution: float = 1.0
    """So many times longer a silence must be than at first: it was doubted before, and for nothing."""
    _window_s: float = 0.0
    _window_tokens: int = 0
    _pages: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    # --- what it is given and says ------------------------------------------------------------------------------------

    def take(self, request: Request, owed: float, prompt: float, digests: Sequence[bytes], now_s: float) -> None:
        """A request that is owed so much, `prompt` of it for what it has already."""
        if not self.streams:
            self.heard_s = now_s  # it was idle: its silence so far means nothing
            self._window_s, self._window_tokens = now_s, 0
        self.streams += 1
        self.owed[request.priority] += owed
        self.prompts += prompt
        self._remember(digests)

    def leave(self, request: Request, owed: float, prompt: float, begun: bool) -> None:
        self.streams -= 1
        self.prompts -= prompt
        self.begun -= begun
        self.owed[request.priority] -= owed

    def heard(self, now_s: float) -> None:
        """Tokens came, whoever they are for."""
        if self.doubted_s is not None:
            self.doubted_s, self.caution = None, min(MAX_CAUTION, 2 * self.caution)
        if self.begun:
            self.gap_s = max(now_s - self.heard_s, GAP_DECAY * self.gap_s)
        self.heard_s = now_s

    def generated(self, tokens: int, now_s: float) -> None:
        """By one of its streams."""
        self._window_tokens += tokens
        seconds = now_s - self._window_s
        if seconds < WINDOW_S:
            return
        rate, many = self._window_tokens / seconds, self.streams >= MANY
        self.last_rate = rate
        if rate > self.rate or (many and self.most_streams < MANY):
            self.rate, self.most_streams = rate, self.streams
        elif many:
            self.rate += 10 * DRIFT * (rate - self.rate)
        self._window_s, self._window_tokens = now_s, 0

    def paced(self, token_s: float) -> None:
        """A stream was so long at each of its last few tokens."""
        known = self.token_s
        self.token_s = token_s if not known or token_s < known else known + DRIFT * (token_s - known)

    def longest_silence_s(self, least_s: float, times: float) -> float:
        """That is no reason to doubt it: its streams wait while prompts are computed."""
        token_s = self.token_s or self.capacity.token_s
        return self.caution * max(least_s, times * max(self.gap_s, token_s * self.prompts))

    # --- what is expected of it ---------------------------------------------------------------------------------------

    @property
    def error(self) -> float:
        """So many times its forecast does a token take; 0: not known."""
        return self.token_s / self.capacity.token_s if self.token_s and self.capacity.token_s else 0.0

    def speed(self, own: float, usual_error: float) -> Speed:
        """For a request that owes so much. What was not measured is forecast, and as wrong as other forecasts are."""
        error = self.error or usual_error
        token_s = self.token_s or error * self.capacity.token_s or 1.0
        forecast = self.capacity.tokens_per_s / error if self.most_streams < MANY else 0.0
        return Speed(own * token_s, max(self.rate, forecast, 1 / token_s) / own)

    def expected_s(self, request: Request, digests: Sequence[bytes], usual_error: float) -> float:
        """Until its last token, if it came here now: the rule of the simulator (`sim/serve/dispatch`)."""
        own = self.owed_by(request, digests)
        return self.speed(own, usual_error).expected_s(self.ahead_of(request) / own)

    def ahead_of(self, request: Request) -> float:
        """What is owed to those who go first: interactive requests do not wait for others."""
        return sum(owed for priority, owed in self.owed.items() if priority <= request.priority)

    def owed_by(self, request: Request, digests: Sequence[bytes] = ()) -> float:
        cached = self._cached(digests) * self.capacity.page_size
        prompt = max(0, len(request.prompt) + len(request.emitted) - cached)
        return max(1.0, remaining(request, len(request.emitted)) + prompt / PROMPT_TOKENS)

    def _cached(self, digests: Iterable[bytes]) -> int:
        """Pages of its beginning that were here lately."""
        count = 0
        for digest in digests:
            if digest not in self._pages:
                break
            count += 1
        return count

    def _remember(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            self._pages[digest] = None
            self._pages.move_to_end(digest)
        while len(self._pages) > min(MAX_PAGES, self.capacity.pages):
            self._pages.popitem(last=False)


def remaining(request: Request, emitted: int) -> int:
    """Tokens that it may still get after so many."""
    return max(1, request.sampling.max_tokens - emitted)


def digests_of(request: Request, page_size: int) -> list[bytes]:
    """Of the full pages of its prompt, as the engine names them."""
    digests: list[bytes] = []
    for index in range(min(MAX_HASHED_PAGES, len(request.prompt) // page_size if page_size else 0)):
        page = request.prompt[index * page_size : (index + 1) * page_size]
        digests.append(page_digest(digests[-1] if digests else ROOT, page))
    return digests
