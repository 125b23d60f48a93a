"""Codecs per link: against trying all of them, and AdaTopK as what it is a special case of."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.codec_table import CODECS
from muster.errors import InvalidRequest
from muster.plan.codecs import LinkLoad, adatopk_ratios, least_period, mildest, top_k_ratios

links = st.lists(
    st.builds(
        LinkLoad,
        st.floats(1e3, 1e7),
        st.sampled_from([16.0, 32.0]),
        st.floats(1e5, 1e9),
        st.floats(0, 0.1),
    ),
    min_size=1,
    max_size=3,
)
some_codecs = st.lists(st.sampled_from(CODECS), min_size=1, max_size=4, unique=True)


@given(links, some_codecs, st.floats(1e-4, 100))
def test_no_other_choice_within_the_period_loses_less(links, codecs, period_s):
    found = mildest(links, codecs, period_s)
    in_time = [
        choice
        for choice in product(codecs, repeat=len(links))
        if all(link.seconds(codec) <= period_s for link, codec in zip(links, choice, strict=True))
    ]
    if found is None:
        assert not in_time
    else:
        assert found.distortion <= min(sum(codec.distortion for codec in choice) for choice in in_time) + 1e-12


@given(links, some_codecs, st.floats(0, 10), st.floats(0, 3))
def test_the_period_is_the_least_of_all_choices_that_lose_no_more(links, codecs, floor_s, most):
    able = [
        max(floor_s, *(link.seconds(codec) for link, codec in zip(links, choice, strict=True)))
        for choice in product(codecs, repeat=len(links))
        if sum(codec.distortion for codec in choice) <= most
    ]
    if not able:
        with pytest.raises(InvalidRequest, match="allow more"):
            least_period(links, codecs, floor_s, most)
        return
    found = least_period(links, codecs, floor_s, most)
    assert found.period_s == pytest.approx(min(able))
    assert found.distortion <= most


def test_links_that_a_slow_machine_hides_send_raw_values():
    fast, slow = LinkLoad(1e6, 16, 1e9), LinkLoad(1e6, 16, 1e6)
    found = least_period([fast, slow], CODECS, floor_s=1.0)
    assert [codec.name for codec in found.codecs] == ["raw", "group-6"]
    assert least_period([fast, slow], CODECS, floor_s=2.1).distortion == 0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.floats(1, 200))
def test_adatopk_is_the_same_choice_where_its_messages_are_smaller_than_raw_ones(raw_s, ratio):
    period_s = max(raw_s) / ratio
    for ours, theirs, seconds in zip(top_k_ratios(raw_s, period_s), adatopk_ratios(raw_s, ratio), raw_s, strict=True):
        if theirs > 3 * (1 + 1e-9):
            assert ours == pytest.approx(theirs)
            assert seconds * 3 / ours == pytest.approx(period_s)
        elif theirs < 3 * (1 - 1e-9):
            assert ours == 1
            assert seconds <= period_s


def test_more_compression_never_loses_less():
    distortions = [codec.distortion for codec in CODECS]
    bits = [codec.bits_per_value or 16 for codec in CODECS]
    assert np.all(np.diff(distortions[:6]) > 0)
    assert np.all(np.diff(bits) < 0)
