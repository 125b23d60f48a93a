"""What came of guessed tokens, in numbers. Knows nothing of who guessed them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuessCounts:
    """Of a ring, since it was placed."""

    guessed: int = 0
    accepted: int = 0
    """Guesses that were what the sampler chose."""
    passes: int = 0
    """In which a sequence that decodes took part, with guesses or without; one for each sequence."""
    tokens: int = 0
    """That these brought."""

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes if self.passes else 0.0
