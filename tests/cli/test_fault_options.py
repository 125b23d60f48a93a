"""Faults and recorded requests, as people write them."""

from pathlib import Path

import pytest

from muster.cli.fault_options import read_fault_file, read_faults, read_lab_faults, read_trace
from muster.errors import InvalidRequest
from muster.sim.serve.arrivals import Arrival
from muster.spec.faults import CutLink, Freeze, Heal, Join, Leave, Slow, SlowLink
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


def test_a_lab_knows_more_forms_and_takes_those_without_a_time_at_once(tmp_path: Path) -> None:
    schedule = tmp_path / "faults"
    schedule.write_text("# first\nkill:a@12\n\njoin:a@40   # and back\nfreeze:b@1-2\nfreeze:b\nheal:b@4\n")
    words = [*read_fault_file(schedule), "slow:b@5x0.3", "slow:a,b@5x0.1", "cut:a,b@1-2", "cut:a,b", "heal:a,b"]
    assert read_lab_faults(words, lambda name: name) == (
        Leave("a", 12.0),
        Join("a", 40.0),
        Freeze("b", 1.0, 2.0),
        Freeze("b", 0.0),
        Heal("b", 4.0),
        Slow("b", 5.0, 0.3),
        SlowLink("a", "b", 5.0, 0.1),
        CutLink("a", "b", 1.0, 2.0),
        CutLink("a", "b", 0.0),
        Heal("a", 0.0, "b"),
    )


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("explode:a", "write it like leave:ada"),
        ("slow:a", "slow:bob@5x0.3"),
        ("slow:a@1x0", "write one from 0.01 to 1"),
        ("slow:a@1x2", "write one from 0.01 to 1"),
        ("cut:a", "cut:ada,bob@10-20"),
        ("cut:a,a", "names one machine twice"),
        ("freeze:a@3-3", "ends before it begins"),
        ("leave:a@3-4", "write it like leave:ada"),
        ("leave:a@soon", "write it like leave:ada"),
    ],
)
def test_other_words_for_a_lab_are_refused_with_an_example(word: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_lab_faults([word], lambda name: name)
    assert says in str(caught.value)
