"""What one pass around the ring takes: a fixed part, and one for each position. Fitted to what passes took."""

FORGET = 0.98
"""A pass counts for so much after one more: links and loads change."""
EXPECTED_SHARE = 0.02
"""Of a pass that one more position is expected to take, until passes of several lengths have been seen."""
EXPECTED_WEIGHT = 2.0
"""That expectation counts like so many passes, each one position off the mean."""


class TripCost:
    """Least squares over the passes of late."""

    def __init__(self) -> None:
        self._count = self._positions = self._seconds = self._squares = self._products = 0.0

    def took(self, positions: int, seconds: float) -> None:
        values = (1.0, positions, seconds, positions * positions, positions * seconds)
        sums = (self._count, self._positions, self._seconds, self._squares, self._products)
        self._count, self._positions, self._seconds, self._squares, self._products = (
            FORGET * so_far + value for so_far, value in zip(sums, values, strict=True)
        )

    @property
    def known(self) -> bool:
        return self._count > 0

    @property
    def position_s(self) -> float:
        """What one more position takes."""
        if not self.known:
            return 0.0
        mean_positions, mean_s = self._positions / self._count, self._seconds / self._count
        varied = self._squares - self._count * mean_positions**2
        together = self._products - self._count * mean_positions * mean_s
        expected_s = EXPECTED_SHARE * mean_s
        return max(0.0, (together + EXPECTED_WEIGHT * expected_s) / (varied + EXPECTED_WEIGHT))

    def seconds(self, positions: int) -> float:
        """Of a pass of so many."""
        if not self.known:
            return 1.0
        mean_s = self._seconds / self._count
        beyond_s = self.position_s * (positions - self._positions / self._count)
        return max(mean_s * 0.05, mean_s + beyond_s)
