"""What came of a request: kept for a while, so that it can be checked."""

from collections import OrderedDict
from dataclasses import dataclass

from muster.spec.request import Request

MAX_ANSWERS = 4096
MAX_TOKENS = 2**20
"""Of all that are kept, prompts included."""


@dataclass(frozen=True, slots=True)
class Answer:
    request: Request
    tokens: tuple[int, ...]
    """Without the prompt."""

    @property
    def all_tokens(self) -> tuple[int, ...]:
        return (*self.request.prompt, *self.tokens)


class Answers:
    """The last ones, by request. In memory alone, so they end with the process."""

    def __init__(self, max_answers: int = MAX_ANSWERS, max_tokens: int = MAX_TOKENS) -> None:
        self._max_answers, self._max_tokens = max_answers, max_tokens
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._tokens = 0

    def add(self, request: Request, tokens: tuple[int, ...]) -> None:
        answer = self._kept[request.id] = Answer(request, tokens)
        self._tokens += len(answer.all_tokens)
        while self._tokens > self._max_tokens or len(self._kept) > self._max_answers:
            _, oldest = self._kept.popitem(last=False)
            self._tokens -= len(oldest.all_tokens)

    def of(self, request_id: str) -> Answer | None:
        return self._kept.get(request_id)
