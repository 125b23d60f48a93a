"""Data channel: requests, the tokens that answer them, and the steps that go from stage to stage."""

import msgspec

from muster.spec.request import Progress, Request, Sampled
from muster.spec.sampling import Sampling
from muster.spec.scores import PromptScores
from muster.wire.messages.base import EpochMessage, TensorHeader


class Submit(EpochMessage, frozen=True, tag="submit"):
    """Session to first stage."""

    request: Request


class Cancel(EpochMessage, frozen=True, tag="cancel"):
    """Session to first stage."""

    request_id: str


class Tokens(EpochMessage, frozen=True, tag="tokens"):
    """First stage to session."""

    progress: tuple[Progress, ...]


class Failed(EpochMessage, frozen=True, tag="failed"):
    """First stage to session: this request cannot go on here. `retry` says whether to resubmit after a repair."""

    request_id: str
    code: str
    reason: str
    retry: bool


class EpochUnknown(EpochMessage, frozen=True, tag="epoch_unknown"):
    """Node to session: no stage of this epoch is here, so nothing that was sent to it will be answered."""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One request's share of a step: tokens [start, start + length) of its sequence."""

    slot: int
    """Small number that the ring's head gave the request; valid from its `Admit` to its `release`."""
    start: int
    length: int
    pages: tuple[int, ...]
    """Page table that covers [0, start + length)."""
    samples: int
    """The logits of so many tokens, up to the row's last, choose a token each. The first of these tokens is the last
    that is known; those behind it are guesses, which the row computes as if they were right."""
    scores: int = 0
    """The logits of so many tokens, from `start` on, score the token of the prompt behind each."""


class Admit(msgspec.Struct, frozen=True, array_like=True):
    """Tells the last stage how to sample `slot`. `context` is prompt + already emitted tokens (penalties need them)."""

    slot: int
    context: tuple[int, ...]
    num_prompt: int
    sampling: Sampling
    """Without the grammar, which came before."""
    grammar: int = 0
    """The number of its `Prepare`; 0 for none."""


class Spent(msgspec.Struct, frozen=True, array_like=True):
    """Seconds of a step at one stage, by that machine's clock."""

    waited_s: float
    """From its arrival until the stage began with it."""
    computed_s: float


class Step(EpochMessage, frozen=True, tag="step"):
    """Run these rows through your layers. The payload is the hidden state [sum of lengths, hidden size].

    Each runs once at every stage, whatever order they come in, when all steps up to `after` have. `copies` are (from,
    to) pages to be copied before the rows run (copy-on-write). `admit`, `release` and `forget` (grammars that nobody
    will be admitted with any more) concern the last stage alone: where others are between, they travel apart.
    So do `guesses`: of each row with more than one of `samples`, in order, the tokens that are guessed.
    """

    sequence: int
    """Counted from 0, by the ring's head."""
    rows: tuple[Row, ...]
    after: int = -1
    closed: int = 0
    """The tokens of all steps below this number have come back, so nobody will ask for these steps again."""
    copies: tuple[tuple[int, int], ...] = ()
    admit: tuple[Admit, ...] = ()
    release: tuple[int, ...] = ()
    forget: tuple[int, ...] = ()
    guesses: tuple[tuple[int, ...], ...] = ()
    named: tuple[tuple[int, bytes], ...] = ()
    """(slot, what receipts call its request), of the slots that go to a request with this step."""
    apart: bool = False
    """What concerns the last stage alone comes as `Admissions`; it waits for them."""
    spent: tuple[Spent, ...] = ()
    """At the stages behind the first that it has passed."""
    hidden: TensorHeader | None = None


class Admissions(EpochMessage, frozen=True, tag="admissions"):
    """First stage to last, past the stages between, which have no business with prompts. Belongs to step `sequence`.

    It may come before its step or after it.
    """

    sequence: int
    admit: tuple[Admit, ...] = ()
    release: tuple[int, ...] = ()
    forget: tuple[int, ...] = ()
    guesses: tuple[tuple[int, ...], ...] = ()


class Prepare(EpochMessage, frozen=True, tag="prepare"):
    """First stage to last: compile this grammar beside the steps. Answered with `Prepared`, after seconds perhaps.

    `forget` as in steps, where none is under way.
    """

    number: int
    grammar: str
    forget: tuple[int, ...] = ()


class Prepared(EpochMessage, frozen=True, tag="prepared"):
    """Last stage to first: sequences may be admitted with this grammar; or why that cannot be, in a sentence."""

    number: int
    problem: str = ""


class StepDone(EpochMessage, frozen=True, tag="step_done"):
    """Last stage to the ring's head: the `Sampled` of each row with `samples`, in the order of the rows.

    A row with guesses has one for each guess that is what the sampler chose, and one more; `accepted` counts them.
    Likewise one of `scores` per row with `scores`. What else follows names tokens by their place in `sampled`: what
    their grammars have to say.
    """

    sequence: int
    sampled: tuple[Sampled, ...]
    scores: tuple[PromptScores, ...] = ()
    accepted: tuple[int, ...] = ()
    """Of each row with `samples`; empty where every row has one."""
    complete: tuple[int, ...] = ()
    """Nothing may follow this token."""
    broken: tuple[tuple[int, str], ...] = ()
    """No token could be chosen, and why not; what stands in its place means nothing."""
    spent: tuple[Spent, ...] = ()
    """At all stages behind the first."""
