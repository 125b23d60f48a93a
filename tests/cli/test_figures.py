"""Figures in tables: short, with a unit, and never in scientific notation."""

import pytest

from muster.cli import figures
from muster.plan.words import layers_in_words


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0.0, "0 ms"),
        (0.00312, "3.12 ms"),
        (0.0999, "0.0999 s"),
        (0.41, "0.41 s"),
        (12.34, "12.3 s"),
        (99.6, "1 min 40 s"),
        (120, "2 min"),
        (5999.9, "1 h 40 min"),
        (7200, "2 h"),
        (float("inf"), "for ever"),
    ],
)
def test_seconds(value: float, says: str) -> None:
    assert figures.seconds(value) == says


@pytest.mark.parametrize(
    ("value", "says"), [(0.6149, "0.615"), (999.4, "999"), (999.6, "1,000"), (1234567, "1,234,567")]
)
def test_numbers_have_three_digits_that_count(value: float, says: str) -> None:
    assert figures.number(value) == says


@pytest.mark.parametrize(
    ("value", "says"),
    [(13.88, "$13.88"), (0.00345, "$0.0034"), (0.1, "$0.10"), (-2.5, "-$2.50"), (1204, "$1,204"), (0, "$0.00")],
)
def test_dollars(value: float, says: str) -> None:
    assert figures.dollars(value) == says


@pytest.mark.parametrize(
    ("value", "says"), [(0, "0%"), (0.0004, "<0.1%"), (0.0141, "1.4%"), (0.98, "98%"), (1, "100%"), (1.5, "150%")]
)
def test_shares(value: float, says: str) -> None:
    assert figures.share(value) == says


def test_changes_layers_and_counts() -> None:
    assert [figures.gain(100, then) for then in (107, 97, 100.2)] == ["+7%", "-3%", "the same"]
    assert figures.gain(0, 5) == "from nothing"
    assert [layers_in_words(0, 20), layers_in_words(4, 5)] == ["0–19", "4"]
    assert [figures.several(1, "machine"), figures.several(2, "microbatch", "microbatches")] == [
        "1 machine",
        "2 microbatches",
    ]
