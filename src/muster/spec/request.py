"""One generation request and what comes back. Knows nothing of text or transport."""

from dataclasses import dataclass, field
from enum import IntEnum

from muster.spec.sampling import Sampling
from muster.spec.scores import PromptScores


class Priority(IntEnum):
    """Smaller is served first."""

    INTERACTIVE = 0
    OFFLINE = 1


@dataclass(frozen=True, slots=True)
class Request:
    """Everything needed to generate, or to go on generating elsewhere after a failure.

    `emitted` are the tokens that the client already has. A pipeline that receives the request treats prompt + emitted
    as context and samples the token at position len(prompt) + len(emitted) next. With the same seed the continuation
    is the one that the lost pipeline would have produced. `scored` counts the prompt tokens whose scores the client
    already has.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    emitted: tuple[int, ...] = ()
    priority: Priority = Priority.INTERACTIVE
    scored: int = 0

    @property
    def num_scores(self) -> int:
        """Prompt tokens that get a score: all but the first, which has nothing before it."""
        return 0 if self.sampling.prompt_logprobs is None else len(self.prompt) - 1


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled token of one request."""

    token: int
    logprob: float | None = None
    """Natural logarithm, of the distribution before temperature and truncation, as the OpenAI API reports it."""
    top: tuple[TokenLogprob, ...] = ()


class Finish:
    """Why a request ended; the strings are those of the OpenAI API."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TOOL_CALLS = "tool_calls"
    """Not of the pool: whoever reads the text finds that it ends with complete calls of tools."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Newly sampled tokens of one request, in order.

    `index` is the position of the first of them among all tokens emitted for the request (so the prompt does not
    count, and tokens emitted before a resubmission do). A receiver drops what it already has.
    """

    request_id: str
    index: int
    tokens: tuple[Sampled, ...]
    finish: str | None = None
    """A `Finish` string on the last one, else None."""
    scores: PromptScores | None = None
    """Of the next tokens of the prompt; all of them come before, or with, the first token. Some may come twice."""
