"""Faults and recorded requests, as people write them."""

from pathlib import Path

import pytest

from muster.cli.fault_options import read_faults, read_trace
from muster.errors import InvalidRequest
from muster.sim.serve.arrivals import Arrival
from muster.spec.faults import CutLink, Join, Leave, Slow
from muster.spec.fleets import shipped_fleet

POOL = shipped_fleet("deserve-8xl4")


def test_every_form_is_read() -> None:
    words = ["leave:l4-1@12", "join:l4-1@40.5", "slow:l4-2@5x0.3", "cut:l4-1,l4-2@10-20", "cut:l4-3,l4-4@1"]
    assert read_faults(words, POOL) == (
        Leave("l4-1", 12.0),
        Join("l4-1", 40.5),
        Slow("l4-2", 5.0, 0.3),
        CutLink("l4-1", "l4-2", 10.0, 20.0),
        CutLink("l4-3", "l4-4", 1.0),
    )


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("leave", "write it like leave:ada@12"),
        ("explode:l4-1@3", "write it like leave:ada@12"),
        ("leave:l4-1", "write it like leave:ada@12"),
        ("leave:l4-1@soon", "write it like leave:ada@12"),
        ("slow:l4-1@3", "slow:bob@5x0.3"),
        ("cut:l4-1@3", "cut:ada,bob@10-20"),
        ("cut:l4-1,l4-1@3", "cuts a machine from itself; name two machines"),
        ("leave:l4-9@3", "'l4-9', which is no machine of the pool; did you mean"),
        ("leave:l4@3", "could be any of 8 machines"),
    ],
)
def test_other_words_are_refused_with_an_example(word: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_faults([word], POOL)
    assert says in str(caught.value)


def test_a_trace_is_read_with_or_without_a_heading(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = "2.5, 100, 20\n0,64,1\n"
    for text in (rows, "at,prompt,output\n" + rows):
        file.write_text(text)
        assert read_trace(file) == (Arrival(0.0, 64, 1), Arrival(2.5, 100, 20))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no request"),
        ("at,prompt,output\n", "holds no request"),
        ("0,64,1\n1,64\n", "Request 2 of"),
        ("-1,64,3\n0,64,1\n", "Request 1 of"),
        ("0,64,1\n-1,64,3\n", "Request 2 of"),
        ("0,64,0\n", "lengths at least 1"),
        ("0,64,1\n" + "9" * 5000 + ",64,1\n", "in plain digits"),
        ("0,64,1\n0,\0,1\n", "in plain digits"),
        ("0,64,1,\n", "in plain digits"),
        ("0,64,1\n" * 100_001, "one run simulates at most 100,000; take a part of it"),
    ],
)
def test_a_trace_that_is_none_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        read_trace(file)
    assert says in str(caught.value)
