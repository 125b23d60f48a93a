"""Logits become tokens: all sampled rows of a step at once. Knows nothing of pages, requests or stages.

What a row yields depends on its own logits, sampling parameters, context and position, never on its neighbours.

Legend of shape suffixes: S sampled rows, V vocabulary, K kept best logits, N entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.serve.constrain import Constraint, Constraints
from muster.serve.penalties import History, add_bias, needs_history, penalise
from muster.serve.race import first_to_arrive
from muster.serve.scoring import ScoredPrompt, prompt_to_score
from muster.spec.request import Sampled, TokenLogprob
from muster.spec.sampling import Sampling
from muster.spec.scores import LEAST_LOGPROB
from muster.wire.messages.generate import Admit

GREEDY_BELOW = 1e-5
"""Lower temperatures cannot be told from greedy in float32."""

NUCLEUS = 1024
"""As many of the best tokens are looked at before the whole vocabulary is sorted for top-p."""


@dataclass(slots=True)
class Slot:
    """What the sampler remembers of one sequence."""

    sampling: Sampling
    length: int
    """Tokens so far, hence the position of the next one."""
    num_prompt: int
    history: History | None
    constraint: Constraint | None = None
    prompt: ScoredPrompt | None = None
    """What is to be scored."""

    @property
    def random(self) -> bool:
        return self.sampling.temperature >= GREEDY_BELOW

    @property
    def too_short(self) -> bool:
        """Whether it is not to end yet."""
        return self.length - self.num_prompt < self.sampling.min_tokens


class Sampler:
    """Chooses the next token of every admitted slot."""

    def __init__(self, constraints: Constraints | None = None) -> None:
        """Without `constraints` no slot is admitted with a grammar."""
        self._slots: dict[int, Slot] = {}
        self._constraints = constraints

    def admit(self, admit: Admit) -> None:
        sampling = admit.sampling
        history = History(admit.context, admit.num_prompt) if needs_history(sampling) else None
        slot = Slot(sampling, len(admit.context), admit.num_prompt, history, prompt=prompt_to_score(admit))
        if admit.grammar:
            assert self._constraints is not None, "a grammar was prepared for this slot"
            slot.constraint = self._constraints.begin(admit.grammar, admit.context[admit.num_prompt :])
        self._slots[admit.slot] = slot

    def release(self, slot: int) -> None:
        del self._slots[slot]

    def forget(self, grammar: int) -> None:
        assert self._constraints is not None, "a grammar was prepared before"
        self._constraints.forget(grammar)

    def grammars(self) -> frozenset[int]:
        """That slots may be admitted with."""
        return frozenset() if self._constraints is None else self._constraints.numbers

    def slots(self) -> dict[int, int]:
        """Length of the context of every admitted slot."""
        return {number: slot.length for number, slot in self._slots.items()}

    def prompts(self) -> dict[int, ScoredPrompt]:
        """Of the admitted slots whose prompts are scored."""
        return {number: slot.prompt for number, slot in self._slots.items() if slot.prompt is not None}

    def sample(self, logits_SV: Tensor, slots: Sequence[int]) -> tuple[Sampled, ...]:
        """One token per row; row i belongs to `slots[i]`. The logits are left as they are."""
        states = [self._slots[slot] for slot in slots]
        if not states:
            return ()
        tokens = _choose(self._constrain(_adjust(logits_SV, states), logits_SV, states), states)
        sampled = _with_logprobs(logits_SV, states, tokens)
        for state, token in zip(states, tokens, strict=True):
            state.length += 1
            if state.history is not None:
                state.history.emitted(token)
            if state.constraint is not None:
                state.constraint.accept(token)
        if self._constraints is not None:
            # While the tokens are on their way round.
            self._constraints.fill([state.constraint for state in states if state.constraint is not None])
        return sampled

    def ends(self, slots: Sequence[int]) -> tuple[tuple[int, ...], tuple[tuple[int, str], ...]]:
        """Of the rows just sampled: places where nothing may follow, and places where no token could be chosen."""
        found = [(place, self._slots[slot].constraint) for place, slot in enumerate(slots)]
        constraints = [(place, constraint) for place, constraint in found if constraint is not None]
        complete = tuple(place for place, constraint in constraints if constraint.is_complete)
        broken = tuple((place, constraint.fault) for place, constraint in constraints if constraint.fault is not None)
        return complete, broken

    def _constrain(self, adjusted_SV: Tensor, logits_SV: Tensor, states: list[Slot]) -> Tensor:
        """What the grammars of some rows allow; the same tensor if nobody has one."""
        constraints = {row: state.constraint for row, state in enumerate(states) if state.constraint is not None}
        if not constraints:
            return adjusted_SV
        assert self._constraints is not None, "a grammar was prepared for these slots"
        constrained_SV = adjusted_SV.clone() if adjusted_SV is logits_SV else adjusted_SV
        self._constraints.mask(constrained_SV, constraints)
        return constrained_SV


def _adjust(logits_SV: Tensor, states: list[Slot]) -> Tensor:
    """Penalties, bias and minimum length; the same tensor if nobody asked for any."""
    histories = {row: state.history for row, state in enumerate(states) if state.history is not None}
    biased = [row for row, state in enumerate(states) if state.sampling.logit_bias]
    short = [row for row, state in enumerate(states) if state.too_short]
    if not histories and not biased and not short:
        return logits_SV
    adjusted_SV = logits_SV.clone()
    if histories:
        penalise(adjusted_SV, list(histories), [states[row].sampling for row in histories], list(histories.values()))
    if biased:
        add_bias(adjusted_SV, biased, [states[row].sampling for row in biased])
    if short:
        _forbid_stops(adjusted_SV, short, [states[row].sampling for row in short])
    return adjusted_SV


def _forbid_stops(logits_SV: Tensor, rows: list[int], samplings: list[Sampling]) -> None:
    """Change in place: none of the rows' stop tokens can be chosen."""
    vocab_size = logits_SV.shape[1]
    places = [
        (row, token)
        for row, sampling in zip(rows, samplings, strict=True)
        for token in sampling.stop_token_ids
        if 0 <= token < vocab_size
    ]
    if places:
        row_N, token_N = torch.tensor(places, device=logits_SV.device).T
        logits_SV[row_N, token_N] = -torch.inf


def _choose(logits_SV: Tensor, states: list[Slot]) -> list[int]:
    tokens: list[int] = logits_SV.argmax(dim=-1).tolist()
    rows = [row for row, state in enumerate(states) if state.random]
    if rows:
        chosen_SV = logits_SV if len(rows) == len(states) else logits_SV[rows]
        for row, token in zip(rows, _draw(chosen_SV, [states[row] for row in rows]), strict=True):
            tokens[row] = token
    return tokens


def _draw(logits_SV: Tensor, states: list[Slot]) -> list[int]:
    samplings = [state.sampling for state in states]
    weights_SV = truncated(logits_SV, samplings)
    return first_to_arrive(weights_SV, [s.seed for s in samplings], [state.length for state in states])


def truncated(logits_SV: Tensor, samplings: list[Sampling]) -> Tensor:
    """Probabilities at each row's temperature, 0 for what top-k, top-p and min-p cut off; they need not sum to 1."""
    device = logits_SV.device
    temperature_S1 = torch.tensor([[s.temperature] for s in samplings], device=device)
    # The best logit becomes 0 first: dividing by a small temperature must not overflow.
    scaled_SV = (logits_SV - logits_SV.amax(dim=-1, keepdim=True)) / temperature_S1
    scaled_SV = _keep_top_k(scaled_SV, [s.top_k for s in samplings])
    return _keep_probable(scaled_SV.softmax(dim=-1), samplings)


def _keep_top_k(scaled_SV: Tensor, top_k: list[int]) -> Tensor:
    """Ties with the k-th best stay in, so that the result does not depend on how a sort breaks ties."""
    vocab_size = scaled_SV.shape[1]
    kept = [k if 0 < k < vocab_size else 0 for k in top_k]
    if not any(kept):
        return scaled_SV
    best_SK = scaled_SV.topk(max(kept), dim=-1).values
    index_S1 = torch.tensor([[max(k, 1) - 1] for k in kept], device=scaled_SV.device)
    bound_S1 = best_SK.gather(1, index_S1)
    unlimited_S1 = torch.tensor([[k == 0] for k in kept], device=scaled_SV.device)
    return scaled_SV.masked_fill((scaled_SV < bound_S1) & ~unlimited_S1, -torch.inf)


def _keep_probable(probs_SV: Tensor, samplings: list[Sampling]) -> Tensor:
    """Top-p (Holtzman et al., 2020, section 3.1), then min-p (Nguyen et al., 2024) of what is left."""
    rows = [row for row, s in enumerate(samplings) if s.top_p < 1.0]
    if rows:
        bound_S1 = torch.zeros_like(probs_SV[:, :1])
        bound_S1[rows] = _top_p_bound(probs_SV[rows], [samplings[row].top_p for row in rows])
        probs_SV = probs_SV.masked_fill(probs_SV < bound_S1, 0.0)
    if any(s.min_p > 0.0 for s in samplings):
        min_p_S1 = torch.tensor([[s.min_p] for s in samplings], device=probs_SV.device)
        probs_SV = probs_SV.masked_fill(probs_SV < min_p_S1 * probs_SV.amax(dim=-1, keepdim=True), 0.0)
    return probs_SV


def _top_p_bound(probs_SV: Tensor, top_p: list[float]) -> Tensor:
    """The smallest probability that stays in. Sorting a whole vocabulary is slow, and few tokens hold most of it."""
    top_p_S1 = torch.tensor([[p] for p in top_p], device=probs_SV.device, dtype=torch.float64)
    best_SK = probs_SV.topk(min(NUCLEUS, probs_SV.shape[1]), dim=-1).values
    if bool((best_SK.sum(dim=-1, keepdim=True, dtype=torch.float64) < top_p_S1).any()):
        best_SK = probs_SV.sort(dim=-1, descending=True).values
    before_SK = best_SK.cumsum(dim=-1, dtype=torch.float64) - best_SK
    return best_SK.masked_fill(before_SK >= top_p_S1, torch.inf).amin(dim=-1, keepdim=True)


def _with_logprobs(logits_SV: Tensor, states: list[Slot], tokens: list[int]) -> tuple[Sampled, ...]:
    """Logprobs are those of the model's own distribution: before penalties, bias, temperature and truncation."""
    sampled = [Sampled(token) for token in tokens]
    rows = [row for row, state in enumerate(states) if state.sampling.logprobs is not None]
    if not rows:
        return tuple(sampled)
    # What a model rules out (minus infinity) or cannot say (NaN) is still a number on the wire.
    logprobs_SV = logits_SV[rows].log_softmax(dim=-1).nan_to_num(nan=LEAST_LOGPROB, neginf=LEAST_LOGPROB)
    chosen_S1 = torch.tensor([[tokens[row]] for row in rows], device=logits_SV.device)
    chosen = logprobs_SV.gather(1, chosen_S1)[:, 0].tolist()
    counts = [min(states[row].sampling.logprobs or 0, logits_SV.shape[1]) for row in rows]
    best = logprobs_SV.topk(max(counts), dim=-1)
    for index, row in enumerate(rows):
        pairs = zip(best.indices[index].tolist(), best.values[index].tolist(), strict=True)
        top = tuple(TokenLogprob(token, value) for token, value in list(pairs)[: counts[index]])
        sampled[row] = Sampled(tokens[row], chosen[index], top)
    return tuple(sampled)
