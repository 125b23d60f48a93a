"""What codecs are said to lose, against encoding Gaussian values."""

import numpy as np
import pytest

from muster.cost.codec_table import CODECS, GROUP, codec_named, group_codec, top_k_codec
from muster.errors import InvalidRequest


def gaussian():
    return np.random.default_rng(0).standard_normal((1024, 1600))


def lost(x, decoded):
    return float(((x - decoded) ** 2).sum() / (x**2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_a_group_codec_loses_what_rounding_to_its_levels_loses(bits):
    groups = gaussian().reshape(-1, GROUP)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    decoded = low + np.round((groups - low) / step) * step
    assert group_codec(bits).distortion == pytest.approx(lost(groups, decoded), rel=0.03)


@pytest.mark.parametrize("ratio", [2, 10, 30, 100])
def test_top_k_loses_what_the_small_values_weigh(ratio):
    x = gaussian().ravel()
    threshold = np.sort(np.abs(x))[-len(x) // ratio]
    assert top_k_codec(ratio).distortion == pytest.approx(lost(x, np.where(np.abs(x) >= threshold, x, 0)), rel=0.02)


def test_top_k_counts_whichever_index_is_smaller():
    assert top_k_codec(2).bits_per_value == 8 + 1  # a map of bits
    assert top_k_codec(100).bits_per_value == pytest.approx(0.16 + 0.32)  # indices of 32 bits


def test_codecs_are_found_by_name_and_others_are_refused():
    assert [codec_named(codec.name) for codec in CODECS] == list(CODECS)
    for wrong in (lambda: codec_named("zip"), lambda: group_codec(5), lambda: top_k_codec(0.5)):
        with pytest.raises(InvalidRequest, match=r"choose one of|give a number"):
            wrong()
