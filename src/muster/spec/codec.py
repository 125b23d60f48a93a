"""How values are packed on a link, as far as sizes go. Knows nothing of how a codec encodes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codec:
    """`bits_per_value` with everything that is sent (scales, indices); 0 sends values as they are."""

    name: str
    bits_per_value: float = 0.0
    state_bytes_per_value: float = 0.0
    """Kept on each end for every value of a message, from message to message."""
    distortion: float = 0.0
    """Relative error of a message: the mean of |x - decoded|^2 / |x|^2 on Gaussian values."""


RAW = Codec("raw")
