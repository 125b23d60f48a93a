"""The table of published measurements: every row can be forecast, and stays on its side of the split."""

from collections import Counter

import pytest

from benchmarks.published import halves, summary
from benchmarks.published_rows import Row, as_used, faster, figure, read
from muster.cost.measured import constants_of
from muster.spec.devices import device_facts

ROWS, SOURCES = read()
BY_ID = {row.id: row for row in ROWS}


def test_rows_have_names_of_their_own_a_source_with_a_date_and_a_known_device() -> None:
    assert max(Counter(row.id for row in ROWS).values()) == 1
    for row in ROWS:
        assert {"title", "address", "date"} <= SOURCES[row.source].keys()
        assert device_facts(row.device)
        assert row.figure > 0
        assert len(row.pool.nodes) in (1, row.count)
    assert set(SOURCES) == {row.source for row in ROWS}


def test_a_row_stays_on_its_side_whatever_else_is_added() -> None:
    sides = {"lc24-8b-rtx-3090-tg": True, "deserve-8xl4": False, "dbm-2x4090-8b": False, "substratus-8xl4": True}
    assert {name: BY_ID[name].fits for name in sides} == sides
    assert 0.4 < sum(row.fits for row in ROWS) / len(ROWS) < 0.6


@pytest.mark.parametrize(
    "name", ["lc24-8b-rtx-3090-tg", "lc24-8b-m2-ultra-pp", "deserve-8xl4", "mlc-34b-4xa10g", "trt06-7b-2048-128"]
)
def test_forecasts_of_rows_are_within_twice_and_half(name: str) -> None:
    row = BY_ID[name]
    constants = constants_of(row.pool)
    assert 0.5 < faster(row, figure(row, as_used(row, constants), constants)) < 2


def test_milliseconds_and_tokens_are_compared_the_right_way_around() -> None:
    row = Row("a", "b", "llama-2-7b", "l4", 8, 8, 100.0)
    assert faster(row, 200.0) == 2
    late = Row("a", "b", "llama-2-7b", "l4", 8, 8, 100.0, unit="ms to first token")
    assert faster(late, 200.0) == 0.5


def test_a_summary_counts_too_slow_as_it_counts_too_fast() -> None:
    rows = [{"fits": fits, "faster": dict.fromkeys(("as_used", "as_planned", "typical"), ratio)}
            for fits, ratio in ((True, 1.0), (False, 0.25), (False, 1.1), (False, 1.0))]  # fmt: skip
    found = summary(halves(rows)["reports"])["as_used"]
    assert found == {"median_off": 0.1, "worst_times": 4.0, "bias": 0.0, "beyond_twice": 1}
