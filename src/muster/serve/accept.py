"""What must hold before a message from the network may touch tensors. Reads, raises `ProtocolViolation`, changes
nothing. A peer that breaks its own requests is its own problem; a peer must not break memory or other requests."""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from math import isfinite

import torch
from torch import Tensor

from muster.cost.memory import SCORED_AT_ONCE
from muster.errors import InvalidRequest, ProtocolViolation
from muster.serve.scoring import ScoredPrompt
from muster.serve.stage import PagedCache
from muster.serve.turn import MAX_GUESSES, MAX_STEP_SCORES, StepRow
from muster.sim.serve.ring import MAX_SLOTS
from muster.spec.receipt import NAME_BYTES
from muster.spec.request import Sampled
from muster.spec.sampling import MAX_LOGPROBS
from muster.spec.scores import PromptScores
from muster.wire.messages.generate import Admit, Row, Spent, Step, StepDone

MAX_STAGES = 1024
"""Of one ring."""
MAX_SPENT_S = 3600.0


def require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"{what}; the peer runs other code or cheats, so this pipeline must be rebuilt.")


def check_epoch(epoch: int, message: Step | StepDone) -> None:
    require(message.epoch == epoch, f"A message of epoch {message.epoch} came in epoch {epoch}")


def check_step(step: Step, cache: PagedCache, prefill_tokens: int) -> None:
    """Rows and copies stay inside the cache, no two rows write the same page, and the workspace suffices."""
    require(0 < len(step.rows) <= MAX_SLOTS, f"A step has {len(step.rows)} rows where 1 to {MAX_SLOTS} are allowed")
    prompt = sum(row.length for row in step.rows if row.length > 1)
    require(prompt <= prefill_tokens, f"A step has {prompt} prompt tokens where {prefill_tokens} are allowed")
    check_spent(step.spent)
    scored = sum(row.scores for row in step.rows)
    require(scored <= MAX_STEP_SCORES, f"A step scores {scored} tokens where {MAX_STEP_SCORES} are allowed")
    sampled, allowed = sum(row.samples for row in step.rows), max(len(step.rows), SCORED_AT_ONCE)
    require(sampled <= allowed, f"A step samples {sampled} tokens where {allowed} are allowed")
    written: set[int] = set()
    for row in step.rows:
        _check_row(row, cache)
        pages = row.pages[row.start // cache.page_size :]
        require(written.isdisjoint(pages) and len(set(pages)) == len(pages), "Two tokens of a step share a place")
        written.update(pages)
    slots = {row.slot for row in step.rows}
    require(len(slots) == len(step.rows), "Two rows of a step belong to one slot")
    for pair in step.copies:
        require(all(0 <= page < cache.num_pages for page in pair), f"Copy {pair} leaves the {cache.num_pages} pages")
    named = {page for row in step.rows for page in row.pages} | {page for pair in step.copies for page in pair}
    fits = len(named) <= cache.step_pages
    require(fits, f"A step names {len(named)} pages where {cache.step_pages} can be in memory at once")
    require(len(step.named) <= MAX_SLOTS, f"A step names {len(step.named)} requests where {MAX_SLOTS} are allowed")
    for slot, name in step.named:
        require(0 <= slot < MAX_SLOTS, f"Slot {slot} is not in [0, {MAX_SLOTS})")
        require(len(name) == NAME_BYTES, f"A request's name has {len(name)} bytes where {NAME_BYTES} are due")
    sources, targets = {source for source, _ in step.copies}, {target for _, target in step.copies}
    require(sources.isdisjoint(targets) and len(targets) == len(step.copies), "The copies of a step overlap")


def _check_row(row: Row, cache: PagedCache) -> None:
    require(0 <= row.slot < MAX_SLOTS, f"Slot {row.slot} is not in [0, {MAX_SLOTS})")
    require(row.start >= 0 and row.length >= 1, f"A row of {row.length} tokens starts at {row.start}")
    require(0 <= row.scores <= row.length, f"A row of {row.length} tokens scores {row.scores}")
    samples = min(row.length, 1 + MAX_GUESSES)
    require(0 <= row.samples <= samples, f"A row samples {row.samples} tokens where {samples} are allowed")
    needed = -(-(row.start + row.length) // cache.page_size)
    require(needed == len(row.pages), f"A row that needs {needed} pages names {len(row.pages)}")
    inside = min(row.pages) >= 0 and max(row.pages) < cache.num_pages
    require(inside, f"A row names a page outside the {cache.num_pages} of this pipeline")


def check_spent(spent: Sequence[Spent]) -> None:
    """Seconds that make sense. That they are true nobody can see; what follows from them has its limits."""
    require(len(spent) < MAX_STAGES, f"A step passed {len(spent)} stages where {MAX_STAGES} are allowed")
    seconds = [one for stage in spent for one in (stage.waited_s, stage.computed_s)]
    require(all(0 <= one <= MAX_SPENT_S for one in seconds), "A step took no time that there is")


def check_hidden(step: Step, hidden_TH: Tensor, hidden_size: int, dtype: torch.dtype) -> None:
    expected = (sum(row.length for row in step.rows), hidden_size)
    require(tuple(hidden_TH.shape) == expected, f"The hidden state is {tuple(hidden_TH.shape)} instead of {expected}")
    require(hidden_TH.dtype == dtype, f"The hidden state is {hidden_TH.dtype} instead of {dtype}")
    # Not only this step would suffer: attention multiplies the rest of a page by zero, and zero times NaN is NaN, so
    # whoever is given the page next would, too.
    require(bool(hidden_TH.isfinite().all()), "The hidden state holds what is no number")


def check_grammars(step: Step, ready: Collection[int]) -> None:
    """On the last stage: `ready` are the numbers of the grammars that were prepared."""
    for admit in step.admit:
        require(not admit.grammar or admit.grammar in ready, f"Grammar {admit.grammar} was never prepared")
        require(not admit.sampling.grammar, "A grammar came with a slot, where it comes before")
    require(len(set(step.forget)) == len(step.forget), "A grammar is forgotten twice")
    require(set(step.forget) <= set(ready), "A grammar is forgotten that was never prepared")


def check_guesses(step: Step, vocab_size: int) -> None:
    """On the last stage. The step has passed `check_step`."""
    counts = [row.samples - 1 for row in step.rows if row.samples > 1]
    require([len(guesses) for guesses in step.guesses] == counts, "The guesses of a step are not those of its rows")
    inside = all(0 <= token < vocab_size for guesses in step.guesses for token in guesses)
    require(inside, f"A guess is outside the vocabulary of {vocab_size}")


def check_ends(done: StepDone) -> None:
    """On the first stage: places are those of tokens that came."""
    places = [*done.complete, *(place for place, _ in done.broken)]
    require(len(places) <= 2 * len(done.sampled), "More tokens end than came")
    require(all(0 <= place < len(done.sampled) for place in places), "A token ends that did not come")


def check_slots(step: Step, lengths: Mapping[int, int], vocab_size: int, capacity: int) -> None:
    """On the last stage: `lengths` are the admitted slots and the length of their contexts before this step."""
    after = dict(lengths)
    for slot in step.release:
        require(after.pop(slot, None) is not None, f"Slot {slot} is released but was never admitted")
    for admit in step.admit:
        require(admit.slot not in after, f"Slot {admit.slot} is admitted twice")
        _check_admit(admit, vocab_size, capacity)
        after[admit.slot] = len(admit.context)
    for row in step.rows:
        require(row.slot in after, f"Slot {row.slot} runs but was never admitted")
        end, length = row.start + row.length - max(0, row.samples - 1), after[row.slot]
        fits = end == length if row.samples else end < length
        require(fits, f"A row of slot {row.slot} ends at {end} of {length} tokens")


def _check_admit(admit: Admit, vocab_size: int, capacity: int) -> None:
    require(0 <= admit.slot < MAX_SLOTS, f"Slot {admit.slot} is not in [0, {MAX_SLOTS})")
    length = len(admit.context)
    require(0 < length <= capacity, f"A context of {length} tokens is admitted where {capacity} fit")
    require(0 < admit.num_prompt <= length, f"{admit.num_prompt} of {length} tokens are said to be prompt")
    inside = min(admit.context) >= 0 and max(admit.context) < vocab_size
    require(inside, f"A context holds a token outside the vocabulary of {vocab_size}")
    biased = all(0 <= token < vocab_size for token in admit.sampling.logit_bias)
    require(biased, f"A logit bias names a token outside the vocabulary of {vocab_size}")
    try:
        admit.sampling.validate()
    except InvalidRequest as error:
        raise ProtocolViolation(f"A slot is admitted with sampling that is out of range: {error}") from error


def check_scored(step: Step, prompts: Mapping[int, ScoredPrompt]) -> None:
    """On the last stage: `prompts` are those of the slots admitted before this step whose prompts are scored.

    The step has passed `check_slots`.
    """
    lengths = {slot: len(prompt.tokens) for slot, prompt in prompts.items() if slot not in step.release}
    lengths |= {admit.slot: admit.num_prompt for admit in step.admit if admit.sampling.prompt_logprobs is not None}
    for row in step.rows:
        fits = row.scores == 0 or row.start + row.scores < lengths.get(row.slot, 0)
        require(fits, f"A row of slot {row.slot} scores {row.scores} tokens that are not of its prompt")


def check_scores(scores: tuple[PromptScores, ...], shares: Sequence[StepRow], vocab_size: int) -> None:
    """`shares` are the rows that are scored, in order."""
    require(len(scores) == len(shares), f"Scores of {len(scores)} rows came back where {len(shares)} were due")
    for one, share in zip(scores, shares, strict=True):
        kept = min(share.sequence.request.sampling.prompt_logprobs or 0, vocab_size)
        fault = one.fault(share.start + 1, share.scores, kept, vocab_size)
        require(fault is None, f"Scores make no sense: {fault}")


def counts_of(done: StepDone, shares: Sequence[StepRow]) -> tuple[int, ...]:
    """How many tokens came for each of the sampled rows `shares`: one, and one for each guess of it that was right."""
    if not done.accepted:
        require(len(done.sampled) == len(shares), f"{len(done.sampled)} tokens came back where {len(shares)} were due")
        return (1,) * len(shares)
    counts = done.accepted
    require(len(counts) == len(shares), f"Tokens of {len(counts)} rows came back where {len(shares)} were due")
    require(sum(counts) == len(done.sampled), f"{len(done.sampled)} tokens came back where {sum(counts)} were said")
    tokens = iter(done.sampled)
    for count, share in zip(counts, shares, strict=True):
        require(1 <= count <= share.samples, f"{count} tokens came back where {share.samples} were sampled")
        mine = tuple(one.token for one in islice(tokens, count))
        require(mine[:-1] == share.guesses[: count - 1], "A token came back behind a guess that was wrong")
    return counts


def check_sampled(sampled: tuple[Sampled, ...], vocab_size: int) -> None:
    for one in sampled:
        require(len(one.top) <= MAX_LOGPROBS, f"{len(one.top)} alternatives came back where {MAX_LOGPROBS} are allowed")
        tokens = (one.token, *(alternative.token for alternative in one.top))
        require(all(0 <= token < vocab_size for token in tokens), f"A token outside the vocabulary of {vocab_size}")
        numbers = () if one.logprob is None else (one.logprob, *(alternative.logprob for alternative in one.top))
        require(all(isfinite(number) for number in numbers), "A log probability is not a number")
