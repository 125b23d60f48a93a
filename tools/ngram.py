"""An n-gram model with interpolated modified Kneser-Ney smoothing, in numpy. The yardstick for the embedded model.

Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1999), section 3: the highest
order uses counts, lower orders the number of distinct words that precede; three discounts per order from the counts of
counts. Knows nothing of text: tokens are ints below the size of the vocabulary.

An n-gram is packed into one int64, `bits` bits per token, oldest token highest; so a context is `key >> bits` and the
shorter n-gram that forgets the oldest token is `key & mask`.
"""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Keys = NDArray[numpy.int64]
Floats = NDArray[numpy.float64]


@dataclass(frozen=True)
class Order:
    """Tables of one order: what each n-gram has left after discounting, and what each context gives away."""

    keys: Keys
    discounted: Floats
    contexts: Keys
    totals: Floats
    backoff: Floats
    """Share of a context's mass that goes to the next shorter order."""


def discounts(counts: Keys) -> Floats:
    """D1, D2, D3+ of equation 26; index by min(count, 3), index 0 unused."""
    n1, n2, n3, n4 = (max(1, int((counts == k).sum())) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    return numpy.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])


class KneserNey:
    def __init__(self, order: int, vocab_size: int) -> None:
        self.order = order
        self.vocab_size = vocab_size
        self.bits = max(1, (vocab_size - 1).bit_length())
        if self.bits * order > 63:
            raise ValueError(f"{order}-grams of {vocab_size} tokens do not fit 63 bits")
        self.orders: list[Order] = []
        """orders[k - 1] is the table of k-grams."""

    def fit(self, tokens: Keys) -> None:
        keys, counts = numpy.unique(self._pack(tokens, self.order), return_counts=True)
        orders = []
        for order in range(self.order, 0, -1):
            orders.append(self._tables(keys, counts))
            mask = (1 << (self.bits * (order - 1))) - 1
            # Each distinct n-gram now counts once for the shorter n-gram that it ends in.
            keys, counts = numpy.unique(keys & mask, return_counts=True)
        self.orders = orders[::-1]

    def probabilities(self, tokens: Keys) -> Floats:
        """p(token | up to order - 1 tokens before it) for each token of the stream."""
        p = numpy.full(len(tokens), 1.0 / self.vocab_size)
        for order in range(1, self.order + 1):
            p[order - 1 :] = self._interpolate(self.orders[order - 1], self._pack(tokens, order), p[order - 1 :])
        return p

    def _pack(self, tokens: Keys, order: int) -> Keys:
        length = len(tokens) - order + 1
        keys = numpy.zeros(length, dtype=numpy.int64)
        for offset in range(order):
            keys = (keys << self.bits) | tokens[offset : offset + length]
        return keys

    def _tables(self, keys: Keys, counts: Keys) -> Order:
        levels = discounts(counts)
        taken = levels[numpy.minimum(counts, 3)]
        contexts, starts = numpy.unique(keys >> self.bits, return_index=True)  # keys are sorted, so contexts are runs
        totals = numpy.add.reduceat(counts.astype(float), starts)
        return Order(keys, counts - taken, contexts, totals, numpy.add.reduceat(taken, starts) / totals)

    def _interpolate(self, table: Order, keys: Keys, shorter: Floats) -> Floats:
        """A context that was never seen leaves the shorter order's answer as it is."""
        context, known = _find(table.contexts, keys >> self.bits)
        entry, seen = _find(table.keys, keys)
        own = numpy.where(seen, table.discounted[entry], 0.0) / table.totals[context]
        return numpy.where(known, own + table.backoff[context] * shorter, shorter)


def _find(sorted_keys: Keys, wanted: Keys) -> tuple[Keys, NDArray[numpy.bool_]]:
    """Index of each wanted key, and whether it is really there."""
    index = numpy.minimum(numpy.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    return index, sorted_keys[index] == wanted
