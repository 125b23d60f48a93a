"""What machines see of a prompt whose tokens are shared out, and how long a search for the rest takes. Pure arithmetic.

    cluster 3, a machine that sees the second of three parties' tokens     x seen, . hidden

        . . . x x x . . . . . . x x x . . .
        first stretch          second stretch        longest run 3, smallest gap 4, largest gap 7

A *gap* is the distance from one seen token to the next over tokens that are hidden, the beginning of the prompt among
them. Whoever has a model's weights and the state of a token can try what stands before it: all that is known is run
through the model with every candidate for the hidden tokens, until the state comes out right. The state fixes them, so
nothing but the number of candidates protects them, and that is (tries per token) ^ (gap - 1): seen tokens are read off
the embedding, one table look-up each. (Thomas et al., ICML 2025, arXiv 2505.18332 and 2507.05228, count V^gap.) Hidden
tokens behind the last seen one leave no trace in any state that the machine has.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import lcm, log10

from muster.spec.token_shards import TokenShards

GUIDED_TRIES = 10
"""Candidates per token of a hidden stretch, if all of it is tried in the order of a language model.

Measured with a small model on code (`benchmarks/private_attack.py guided`): the median stretch of 8 tokens has a
probability of 10^-8; one of ten has 10^-5 and more. Token by token about 100 are tried (arXiv 2505.18332), but a
stretch as a whole comes up sooner than its tokens' ranks multiplied: sure tokens cost nothing.
"""


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody sees of a prompt."""

    seen: int
    tokens: int
    longest_run: int
    """Successive tokens in clear."""
    stretches: tuple[int, ...]
    """Lengths of the hidden stretches that end before a seen token, in the order of the prompt."""

    @property
    def smallest_gap(self) -> int:
        """What stands between this observer and the first token that is not its own; 1 if nothing is hidden."""
        return 1 + min(self.stretches, default=0)

    @property
    def largest_gap(self) -> int:
        """What stands between this observer and the whole prompt up to the last seen token (Cascade's measure)."""
        return 1 + max(self.stretches, default=0)

    @property
    def sees_all(self) -> bool:
        return self.seen == self.tokens

    def work(self, tries_per_token: int) -> float:
        """Decimal logarithm of the forward passes for the easiest hidden stretch; infinite if none can be searched."""
        if self.sees_all:
            return 0.0
        return (self.smallest_gap - 1) * log10(tries_per_token) if self.stretches else float("inf")


def sight_of(seen: Sequence[bool]) -> Sight:
    """Of a prompt, token by token."""
    stretches: list[int] = []
    run = longest = hidden = 0
    for visible in seen:
        if visible and hidden:
            stretches.append(hidden)
        hidden = 0 if visible else hidden + 1
        run = run + 1 if visible else 0
        longest = max(longest, run)
    return Sight(sum(seen), len(seen), longest, tuple(stretches))


def sight(rule: TokenShards, roles: Collection[int], tokens: int | None = None) -> Sight:
    """Of whoever has these roles, or is told by all who have them; of a prompt that is long, if not of `tokens`."""
    if tokens is None:
        tokens = 2 * rule.cluster * lcm(rule.comp_nodes, rule.shards)
    return sight_of([any(rule.sees(role, position) for role in roles) for position in range(tokens)])
