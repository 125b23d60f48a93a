"""Sentinels: sequences whose last states the client knows, one in every step among the requests.

Machines cannot tell them from requests: they have numbers like those, stand anywhere among them, and are text that the
model itself has made from a seed that nobody else knows. Whoever computes wrongly for everybody computes wrongly for
them, too, and is found in the step in which it does. (The idea of sentinel tokens is that of PriVeri, arXiv 2602.17223,
where they stand within a prompt; here they are sequences of their own, so that answers are the same with and without.)

What is known comes from one pass of the whole model at the client, before anything is served. A machine that lies only
now and then, for one sequence alone, lies to a sentinel in as large a share of its lies as sentinels are of sequences.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from muster.model.weights import Weights
from muster.private.client import NewIds
from muster.private.local import LocalSession
from muster.spec.token_shards import TokenShards

TOLERANCE = {torch.float32: 1e-3}
COARSE_TOLERANCE = 0.1
"""Of 16-bit dtypes."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    ids: tuple[int, ...]
    known_TH: Tensor
    """After the last layer."""


@dataclass(frozen=True, slots=True)
class Lie:
    """States of a sentinel that came out wrong."""

    positions: tuple[int, ...]
    roles: tuple[int, ...]
    """Of which one has lied, in ascending order; of one alone it is known."""


def prepare(weights: Weights, dtype: torch.dtype, length: int, number: int, seed: int) -> list[Sentinel]:
    """Text that the model draws at temperature 1. Runs all layers here, so the client must have them."""
    session = LocalSession(weights, TokenShards(1, 1, 1), dtype, max_tokens=length)
    generator = torch.Generator().manual_seed(seed)
    vocabulary = session.client.ends.vocab_size
    found = []
    for sequence in range(number):
        ids = [int(torch.randint(vocabulary, (), generator=generator))]
        states = []
        for at in range(length):
            logits_SV = session.step([NewIds(sequence, at, (ids[-1],))])
            states.append(session.last_states())
            ids.append(int(torch.multinomial(logits_SV[0].softmax(-1), 1, generator=generator)))
        session.forget(sequence)
        found.append(Sentinel(tuple(ids[:length]), torch.cat(states)))
    return found


class Sentinels:
    """One at a time, a token in each step, and the next one when it is over."""

    def __init__(self, sentinels: Sequence[Sentinel], numbers: "count[int]") -> None:
        """`numbers` gives sequences their numbers, those of requests, too."""
        self._sentinels, self._numbers = sentinels, numbers
        self._at, self._sent, self.sequence = 0, 0, next(numbers)
        self.checked = 0
        """States."""

    @property
    def is_over(self) -> bool:
        return self._sent >= len(self._sentinels[self._at].ids)

    def next(self) -> int:
        """Begin the next one; the sequence that nobody needs any more."""
        before, self.sequence = self.sequence, next(self._numbers)
        self._at, self._sent = (self._at + 1) % len(self._sentinels), 0
        return before

    def restart(self) -> None:
        """Other machines: all that was sent has to be sent again."""
        self._sent, self.sequence = 0, next(self._numbers)

    def due(self) -> NewIds:
        """At first a half, as of a prompt; then token by token."""
        ids = self._sentinels[self._at].ids
        until = self._sent + 1 if self._sent else max(1, len(ids) // 2)
        return NewIds(self.sequence, self._sent, ids[self._sent : until])

    def check(self, rule: TokenShards, states_TH: Tensor) -> Lie | None:
        """What came of `due`. Nothing is counted as sent where something is wrong."""
        known_TH = self._sentinels[self._at].known_TH[self._sent : self._sent + len(states_TH)]
        apart_T = (states_TH.float() - known_TH.float()).norm(dim=1) / known_TH.float().norm(dim=1).clamp(min=1e-9)
        wrong_T = apart_T > TOLERANCE.get(states_TH.dtype, COARSE_TOLERANCE)
        if wrong_T.any():
            wrong = [self._sent + int(at) for at in wrong_T.nonzero()[:, 0]]
            return Lie(tuple(wrong), suspects(rule, wrong, range(self._sent, self._sent + len(states_TH))))
        self._sent += len(states_TH)
        self.checked += len(states_TH)
        return None


def suspects(rule: TokenShards, wrong: Sequence[int], looked_at: Iterable[int]) -> tuple[int, ...]:
    """Who may have made these states wrong while all others of `looked_at` are right.

    What goes wrong within the layers spreads to every later token through keys and values. So where all wrong states
    are of one CompNode and a later one of another is right, that one has changed what it gave back. Else it is a
    CompNode that had tokens up to the first wrong state, or an AttnNode that had a part of its attention.
    """
    owners = {rule.comp_of(position) for position in wrong}
    first = min(wrong)
    right_later = [at for at in looked_at if at > first and at not in wrong and rule.comp_of(at) not in owners]
    if len(owners) == 1 and right_later:
        return tuple(owners)
    comp = {rule.comp_of(position) for position in range(first + 1)}
    shard = rule.shard_of(first)
    attn = {rule.attn_role(shard, rule.shard_of(position)) for position in range(first + 1)}
    return tuple(sorted(comp | attn))
