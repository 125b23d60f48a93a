"""A request while it lives in the engine: its tokens, its pages and how far it has come. Decides nothing.

tokens     [ prompt ........ | emitted before | sampled here ]
computed   ----------------------------->|                      keys and values written, or about to be by a step
remaining                                 <------------------>  1 while decoding, more while prefilling,
                                                                0 while the sampled token is on its way
"""

from dataclasses import dataclass, field
from enum import Enum

from muster.serve.pages import ROOT, page_digest
from muster.spec.request import Finish, Request


class State(Enum):
    PREPARING = "preparing"
    """Not in the queue yet: the last stage compiles its grammar."""
    WAITING = "waiting"
    """In the queue; holds neither pages nor a slot."""
    RUNNING = "running"
    PREEMPTED = "preempted"
    """Lost its pages while a sampled token was on its way; goes back to the queue when that arrives."""
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Sequence:
    request: Request
    arrival: int
    """Place in the order of submission; kept through preemption."""
    tokens: list[int]
    state: State = State.WAITING
    computed: int = 0
    awaiting: bool = False
    """A step that samples the next token is in flight."""
    pages: list[int] = field(default_factory=list)
    slot: int = -1
    digests: list[bytes] = field(default_factory=list)
    """Of the full pages of `tokens`, see `pages.page_digest`."""
    turn: int = -1
    """The last step that ran this sequence."""
    scored: int = 0
    """Prompt tokens whose scores are there or on their way; steps in flight bring theirs whatever happens."""

    def __post_init__(self) -> None:
        self.scored = self.request.scored

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def num_emitted(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def most_to_come(self, max_context: int) -> int:
        """Tokens that may still be emitted."""
        return min(self.request.sampling.max_tokens - self.num_emitted, max_context - len(self.tokens))

    @property
    def reusable(self) -> int | None:
        """So many tokens need not run if their keys and values are there already: nobody waits for their logits.
        None: all that there are."""
        return None if self.scored >= self.request.num_scores else self.scored

    def scores_of(self, start: int, end: int) -> int:
        """How many tokens from `start` on score the one behind them, if the tokens [start, end) run now.

        Some scores may come a second time, where a sequence began again at the beginning of a page.
        """
        last = self.request.num_scores
        return min(end, last) - start if self.scored < min(end, last) else 0

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller goes first; the largest is preempted first."""
        return (self.request.priority, self.arrival)

    def extend_digests(self, page_size: int) -> None:
        """Digest the pages that have become full since the last call."""
        for start in range(len(self.digests) * page_size, len(self.tokens) - page_size + 1, page_size):
            parent = self.digests[-1] if self.digests else ROOT
            self.digests.append(page_digest(parent, self.tokens[start : start + page_size]))

    def tail_digest(self, page_size: int) -> bytes | None:
        """Digest of the partly filled last page, None if the tokens end with a full page."""
        start = len(self.digests) * page_size
        if start == len(self.tokens):
            return None
        return page_digest(self.digests[-1] if self.digests else ROOT, self.tokens[start:])


def finish_reason(sequence: Sequence, eos_token_ids: frozenset[int], max_context: int) -> str | None:
    """Why generation ends after the tokens so far, or None.

    The end-of-sequence or stop token is itself emitted as the last token, so that positions on the two ends of a
    stream agree; whoever turns tokens into text leaves it out.
    """
    sampling = sequence.request.sampling
    if sequence.reusable is not None:
        return None
    if sequence.num_emitted > 0 and sampling.max_tokens > 0:
        last = sequence.tokens[-1]
        if last in sampling.stop_token_ids or (last in eos_token_ids and not sampling.ignore_eos):
            return Finish.STOP
    if sequence.num_emitted >= sampling.max_tokens or len(sequence.tokens) >= max_context:
        return Finish.LENGTH
    return None
