"""How much each link is compressed: as little as the slowest link and the slowest machine allow. Knows no placement.

    minimise    sum over links of distortion(codec_i)
    subject to  T_i(codec_i) <= tau for every link

For a given tau each link takes the codec that loses least among those in time, so the total loss falls as tau grows;
the least tau within a loss that is allowed is found by bisection over the finitely many times that a link can have.

AdaTopK (FusionLLM, arXiv 2410.12707) is this with a ratio that may be any number, tau = max_j T_j / r for a chosen r at
the slowest link, and 12 bytes sent (a 4-byte value, an 8-byte index) for every value kept of 4 bytes:
r_i = max(1, 3 r T_i / max_j T_j). Where that gives ratios between 1 and 3 its messages are no smaller than raw ones,
and here those links send raw values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from muster.errors import InvalidRequest
from muster.spec.codec import Codec

ADATOPK_OVERHEAD = 3.0
"""12 bytes for a value kept, 4 for one sent raw."""


@dataclass(frozen=True, slots=True)
class LinkLoad:
    """One direction of a link and what it carries in each period."""

    values: float
    raw_bits_per_value: float
    bandwidth_bytes_per_s: float
    fixed_s: float = 0.0
    """Added whatever is sent: latency, where the period has to hold it."""

    def seconds(self, codec: Codec) -> float:
        bits = codec.bits_per_value or self.raw_bits_per_value
        return self.fixed_s + self.values * bits / 8 / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """A codec for each link."""

    period_s: float
    """tau: no link takes longer, nor need any machine be faster."""
    codecs: tuple[Codec, ...]

    @property
    def distortion(self) -> float:
        """Sum over the links."""
        return sum(codec.distortion for codec in self.codecs)


def mildest(links: Sequence[LinkLoad], codecs: Sequence[Codec], period_s: float) -> CodecChoice | None:
    """For each link the codec that loses least (of equals, the quickest) within the period; None if one has none."""
    chosen = []
    for link in links:
        timed = [(codec.distortion, link.seconds(codec), index) for index, codec in enumerate(codecs)]
        able = [entry for entry in timed if entry[1] <= period_s * (1 + 1e-12)]
        if not able:
            return None
        chosen.append(codecs[min(able)[2]])
    return CodecChoice(period_s, tuple(chosen))


def least_period(
    links: Sequence[LinkLoad], codecs: Sequence[Codec], floor_s: float = 0.0, most_distortion: float = inf
) -> CodecChoice:
    """The least period from `floor_s` (the slowest machine) on that all links can meet, then the least loss within it.

    Raises `InvalidRequest` if even the mildest codecs lose more than `most_distortion` together.
    """
    times = sorted({floor_s, *(link.seconds(codec) for link in links for codec in codecs)})
    times = [seconds for seconds in times if seconds >= floor_s]
    low, high, best = 0, len(times) - 1, mildest(links, codecs, times[-1])
    if best is None or best.distortion > most_distortion:
        raise InvalidRequest(
            f"The links cannot lose as little as {most_distortion:g}; allow more, or a milder codec.", "codec"
        )
    while low < high:
        middle = (low + high) // 2
        found = mildest(links, codecs, times[middle])
        if found is not None and found.distortion <= most_distortion:
            best, high = found, middle
        else:
            low = middle + 1
    return best


def top_k_ratios(raw_s: Sequence[float], period_s: float, overhead: float = ADATOPK_OVERHEAD) -> tuple[float, ...]:
    """The least ratio for each link by which top-k meets the period; 1 (raw values) where raw does.

    `raw_s` are uncompressed transfer times T_i; keeping one value in r takes T_i x overhead / r.
    """
    return tuple(1.0 if seconds <= period_s else overhead * seconds / period_s for seconds in raw_s)


def adatopk_ratios(raw_s: Sequence[float], ratio: float, overhead: float = ADATOPK_OVERHEAD) -> tuple[float, ...]:
    """FusionLLM's rule as recalled, r_i = max(1, 3 r T_i / max_j T_j), to compare with."""
    slowest_s = max(raw_s)
    return tuple(max(1.0, overhead * ratio * seconds / slowest_s) for seconds in raw_s)
