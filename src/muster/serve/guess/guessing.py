"""Which guesser speaks for a sequence and how many of its guesses are worth a place in the next pass.

As many as bring the most tokens per second: what is expected of them (by how often that kind was right) over what the
pass takes (by what passes took). None, where a plain pass brings more; then one guess goes along now and then, to see
whether that has changed. Knows nothing of pages or rows.
"""

from collections.abc import Callable
from collections.abc import Sequence as Many

from muster.serve.guess.acceptance import FIRST, GuessTrials, expected_tokens
from muster.serve.guess.guesser import Guesser, Prospect
from muster.serve.guess.trip import TripCost
from muster.serve.sequence import Sequence
from muster.spec.guesses import GuessCounts

TRY_AGAIN = 64
"""Passes without a guess of a kind after which one goes along."""


class Guessing:
    def __init__(self, guessers: Many[Guesser], clock: Callable[[], float]) -> None:
        self._guessers = guessers
        self._clock = clock
        self._trip = TripCost()
        self._sent: dict[int, tuple[int, float]] = {}
        self._everyone: dict[str, GuessTrials] = {}
        self._trials: dict[str, dict[str, GuessTrials]] = {}
        """By request and kind."""
        self._kinds: dict[str, str] = {}
        """Of the guesses of each request that are being checked."""
        self._silent: dict[str, int] = {}
        """Passes that each kind has been without."""
        self._guessed = self._accepted = self._passes = self._tokens = 0

    def counts(self) -> GuessCounts:
        return GuessCounts(self._guessed, self._accepted, self._passes, self._tokens)

    def guess(self, sequence: Sequence, most: int, others_wait: bool) -> tuple[int, ...]:
        """At most so many tokens; none where others keep the ring busy, since they would take their time."""
        if others_wait:
            return ()
        best, speaker, count, kind = self._rate(1.0, 0, 0.0), None, 0, ""
        for guesser in self._guessers:
            prospect = guesser.prospect(sequence)
            if prospect is None:
                continue
            rate, wanted = self._worth(sequence, prospect, min(most, prospect.most))
            if rate > best:
                best, speaker, count, kind = rate, guesser, wanted, prospect.kind
        guesses = speaker.guess(sequence, count) if speaker is not None else ()
        if guesses:
            self._silent[kind] = 0
            self._kinds[sequence.request.id] = kind
        return guesses

    def judged(self, sequence: Sequence, guesses: int, right: int) -> None:
        """So many of its guesses were right; the one behind them, if there is one, was wrong."""
        self._guessed += guesses
        self._accepted += right
        kind = self._kinds.pop(sequence.request.id, None)
        if kind is not None and guesses:
            for trials in (self._everyone.setdefault(kind, GuessTrials()), self._of(sequence, kind)):
                trials.add(right, int(right < guesses))
        self._passes += 1
        self._tokens += 1 + right

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        self._trials.pop(sequence.request.id, None)
        self._kinds.pop(sequence.request.id, None)
        for guesser in self._guessers:
            guesser.forget(sequence)

    def sent(self, step: int, positions: int) -> None:
        """A step of only sequences that decode goes round."""
        self._sent[step] = (positions, self._clock())

    def returned(self, step: int) -> None:
        if step in self._sent:
            positions, sent_s = self._sent.pop(step)
            self._trip.took(positions, self._clock() - sent_s)

    def _worth(self, sequence: Sequence, prospect: Prospect, most: int) -> tuple[float, int]:
        """(tokens per second, guesses that bring them)."""
        everyone = self._everyone.get(prospect.kind)
        before = FIRST if everyone is None else everyone.share(FIRST)
        acceptance = self._of(sequence, prospect.kind).share(before)
        rates = [
            (self._rate(expected_tokens(acceptance, count), count, prospect.guess_s), count)
            for count in range(most + 1)
        ]
        best = max(rates)
        if best[1] > 0 or most == 0:
            return best
        self._silent[prospect.kind] = self._silent.get(prospect.kind, 0) + 1
        return (float("inf"), 1) if self._silent[prospect.kind] >= TRY_AGAIN else best

    def _rate(self, tokens: float, guesses: int, guess_s: float) -> float:
        return tokens / (self._trip.seconds(1 + guesses) + guesses * guess_s)

    def _of(self, sequence: Sequence, kind: str) -> GuessTrials:
        return self._trials.setdefault(sequence.request.id, {}).setdefault(kind, GuessTrials())
