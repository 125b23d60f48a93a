"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.options import format_bytes, parse_bytes
from muster.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), ("1.5 GiB", 1_610_612_736), ("2g", 2_000_000_000), ("500000", 500_000), ("3kB", 3000)],
)
def test_a_size_means_what_its_label_says(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-4GB", "0", "0.1", "4XB", "1e9", "4 GB free", "nan"])
def test_a_size_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_bytes(text)
    assert refused.value.parameter == "memory"


@given(st.integers(1, 10**15))
def test_a_printed_size_reads_back_as_nearly_the_same(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006)


@pytest.mark.parametrize("text", ["8", " 24 ", "64000"])
def test_a_small_number_without_a_unit_is_asked_for_one(text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"write {text.strip()}GB"):
        parse_bytes(text)
    assert parse_bytes(f"{text} B") == int(text)
