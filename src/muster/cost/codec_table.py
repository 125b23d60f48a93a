"""Codecs by name, with what they send and what they lose. Sizes only; `compress` has them all.

Losses are on Gaussian values, which activations resemble and are not. All are what `compress` does.
`group-b`: b bits a value, and for each group of 32 a scale and an offset of 16 bits; the loss is that of rounding to
the nearest of 2^b levels between the group's least and greatest value, measured once on 1,024 x 1,600 values (below
that of one scale per channel, which AQ-SGD's code has by default, github.com/DS3Lab/AC-SGD at 95a0f2e). `top-k`: the
greatest values alone.
"""

from math import erfc, exp, pi, sqrt
from statistics import NormalDist

from muster.errors import InvalidRequest
from muster.spec.codec import RAW, Codec

GROUP = 32
_SCALE_AND_OFFSET_BITS = 32
_RELATIVE_ERROR = {2: 0.393, 3: 0.168, 4: 0.0783, 6: 0.0186, 8: 0.0046}
"""|x - decoded| / |x| of a group codec, by bits."""
_INDEX_BITS = 32
_VALUE_BITS = 16


def group_codec(bits: int) -> Codec:
    """One of 2, 3, 4, 6 or 8 bits."""
    if bits not in _RELATIVE_ERROR:
        known = ", ".join(map(str, _RELATIVE_ERROR))
        raise InvalidRequest(f"There is no group codec of {bits} bits; choose one of {known}.", "codec")
    return Codec(f"group-{bits}", bits + _SCALE_AND_OFFSET_BITS / GROUP, distortion=_RELATIVE_ERROR[bits] ** 2)


def top_k_codec(ratio: float) -> Codec:
    """One value in `ratio` is kept, in 16 bits; which ones is said by indices or by a map of bits, whatever is less."""
    if not 1 <= ratio < float("inf"):
        raise InvalidRequest(f"A ratio of {ratio} cannot be kept of anything; give a number from 1 on.", "codec")
    kept = 1 / ratio
    bits = kept * _VALUE_BITS + min(1.0, kept * _INDEX_BITS)
    return Codec(f"top-k-1/{ratio:g}", bits, distortion=top_k_distortion(ratio))


def top_k_distortion(ratio: float) -> float:
    """Share of the energy of Gaussian values that is lost when one in `ratio`, the greatest, is kept.

    With P(|x| > t) = 1 / ratio the kept share is 2 t phi(t) + P(|x| > t), phi the normal density.
    """
    if ratio <= 1:
        return 0.0
    threshold = -NormalDist().inv_cdf(1 / ratio / 2)
    density = exp(-threshold * threshold / 2) / sqrt(2 * pi)
    return max(0.0, 1 - (2 * threshold * density + erfc(threshold / sqrt(2))))


CODECS = (RAW, *(group_codec(bits) for bits in (8, 6, 4, 3, 2)), *(top_k_codec(ratio) for ratio in (10, 30, 100)))
"""What a search for training may choose from, the mildest first."""

FP32 = Codec("fp32", 32.0)
"""Every hidden state unchanged, in more bits than most models have."""
LINK_CODECS = (
    RAW,
    Codec("fp16", 16.0, distortion=4.3e-8),
    Codec("bf16", 16.0, distortion=2.77e-6),
    Codec("int8", 8.125, distortion=4.2e-5),
    Codec("int4", 4.125, distortion=1.38e-2),
)
"""What a pool that serves may put on its links, the mildest first. `fp16` also sends one byte for each token."""


def codecs_called(name: str) -> tuple[Codec, ...]:
    """What `--codec` means: `auto` for a choice of all. Raises `InvalidRequest` with the names there are."""
    if name == "auto":
        return LINK_CODECS
    for codec in (*LINK_CODECS, FP32):
        if codec.name == name:
            return (codec,)
    known = ", ".join(("auto", FP32.name, *(codec.name for codec in LINK_CODECS)))
    raise InvalidRequest(f"There is no codec {name!r} for links; choose one of {known}.", "codec")


def codec_named(name: str) -> Codec:
    """Raises `InvalidRequest` with the names there are."""
    known_codecs = dict.fromkeys((*LINK_CODECS, *CODECS))
    for codec in known_codecs:
        if codec.name == name:
            return codec
    known = ", ".join(codec.name for codec in known_codecs)
    raise InvalidRequest(f"There is no codec {name!r}; choose one of {known}.", "codec")
