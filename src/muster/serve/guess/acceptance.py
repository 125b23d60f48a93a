"""How often guesses of a kind are right: of one sequence, which begins with what all others have seen."""

FORGET = 0.98
"""What was seen counts for so much after one more trial: the last fifty weigh as much as all others."""
PRIOR = 4.0
"""The others count for so many trials of this sequence."""
FIRST = 0.5
"""Before anything was tried."""


class GuessTrials:
    """Right and wrong ones, the older the less."""

    def __init__(self) -> None:
        self._right = self._all = 0.0

    def add(self, right: int, wrong: int) -> None:
        for hits, tries in [(1, 1)] * right + [(0, 1)] * wrong:
            self._right = self._right * FORGET + hits
            self._all = self._all * FORGET + tries

    def share(self, prior: float) -> float:
        """Of right ones, where `prior` is what is expected."""
        return (self._right + PRIOR * prior) / (self._all + PRIOR)


def expected_tokens(acceptance: float, guesses: int) -> float:
    """That one pass brings: 1 + a + a² + … (Y. Leviathan et al., "Fast Inference from Transformers via Speculative
    Decoding", ICML 2023, equation 1)."""
    if acceptance >= 1.0:
        return guesses + 1.0
    return float((1 - acceptance ** (guesses + 1)) / (1 - acceptance))
