"""The register of claims: records are made and checked in one place, and a claim that no longer holds is noticed."""

import json
from pathlib import Path

import pytest

from benchmarks.records import record_parts
from benchmarks.register import Claim, Found, Malformed, Planned, claims, holds, lapsed, newest, planned, read_records

KNOWN = {"ring.1": Planned("Rings are round", ">= 1.8", "times rounder", "python benchmarks/ring.py --json {json}")}


def record(folder: Path, name: str, *rows: dict[str, object], **changes: object) -> Path:
    path = folder / name
    path.write_text(json.dumps({"claims": [{**row, **changes} for row in rows], "raw": [1, 2]}), encoding="utf-8")
    return path


def row(value: float, date: str = "2026-11-30T10:00:00+00:00") -> dict[str, object]:
    (made,) = claims({"ring.1": value}, "a desk", date, "python benchmarks/ring.py", KNOWN)
    return made


@pytest.mark.parametrize(
    ("bar", "kept", "missed"),
    [("<= 0.25", 0.25, 0.26), (">= 1.8", 1.8, 1.79), ("< 1", 0.99, 1), ("> -3", -2.9, -3), ("== 0", 0, 1)],
)
def test_a_bar_is_a_comparison(bar: str, kept: float, missed: float) -> None:
    assert holds(kept, bar)
    assert not holds(missed, bar)


@pytest.mark.parametrize("bar", ["", "0.25", "about 3", "<= a", "<=0.25 s", "=> 3", "import os"])
def test_what_is_no_comparison_is_named(bar: str) -> None:
    with pytest.raises(Malformed, match="is no bar"):
        holds(1.0, bar)


def test_a_benchmark_hands_over_figures_and_the_rest_follows() -> None:
    assert row(1.9) == {
        "id": "ring.1",
        "text": "Rings are round",
        "published": "",
        "bar": ">= 1.8",
        "value": 1.9,
        "unit": "times rounder",
        "holds": True,
        "command": "python benchmarks/ring.py",
        "date": "2026-11-30T10:00:00+00:00",
        "machine": "a desk",
    }
    assert row(1.7)["holds"] is False


def test_a_claim_is_written_down_before_it_is_tried() -> None:
    with pytest.raises(Malformed, match=r"ring\.2: not in benchmarks/claims"):
        claims({"ring.2": 1.0}, "a desk", known=KNOWN)


def test_the_newest_record_of_an_id_counts_whatever_its_file_is_called(tmp_path: Path) -> None:
    record(tmp_path, "z.json", row(1.0, "2026-11-20"))
    record(tmp_path, "a.json", row(2.0, "2026-11-21T01:00:00+00:00"), row(1.9, "2026-11-20T23:00:00+00:00"))
    found = read_records(tmp_path)
    assert newest(found)["ring.1"].claim.value == 2.0
    assert newest(reversed(found))["ring.1"].claim.value == 2.0


def test_an_hour_of_another_zone_is_compared_as_an_instant(tmp_path: Path) -> None:
    record(tmp_path, "a.json", row(1.0, "2026-11-21T01:00:00+02:00"), row(2.0, "2026-11-21T00:00:00+00:00"))
    assert newest(read_records(tmp_path))["ring.1"].claim.value == 2.0


def test_only_what_held_before_can_lapse(tmp_path: Path) -> None:
    record(tmp_path, "a.json", row(1.0, "2026-11-20"))
    assert lapsed(read_records(tmp_path)) == []
    record(tmp_path, "b.json", row(2.0, "2026-11-21"))
    assert lapsed(read_records(tmp_path)) == []
    record(tmp_path, "c.json", row(1.5, "2026-11-22"))
    (one,) = lapsed(read_records(tmp_path))
    assert one == Found(one.claim, "c.json")
    assert one.claim.value == 1.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"holds": False}, "says holds = False, but 1.9 against >= 1.8 is True"),
        ({"value": "1.9"}, r"Expected `float`, got `str` - at `\$.value`"),
        ({"value": None}, "Expected `float`"),
        ({"id": "Ring one"}, "is no id"),
        ({"bar": "large"}, "is no bar"),
        ({"date": "yesterday"}, "Invalid isoformat"),
        ({"loud": 1}, "unknown field `loud`"),
    ],
)
def test_a_malformed_record_is_named(changes: dict[str, object], says: str, tmp_path: Path) -> None:
    record(tmp_path, "ring-2026-11-30.json", row(1.9), **changes)
    with pytest.raises(Malformed, match=rf"ring-2026-11-30.json: claim 1.*{says}"):
        read_records(tmp_path)


@pytest.mark.parametrize("field", Claim.__struct_fields__)
def test_no_field_may_be_left_out(field: str, tmp_path: Path) -> None:
    whole = row(1.9)
    del whole[field]
    record(tmp_path, "ring.json", whole)
    with pytest.raises(Malformed, match=f"missing required field `{field}`"):
        read_records(tmp_path)


def test_a_record_without_claims_is_raw_data(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("[1, 2]")
    assert read_records(tmp_path) == []


def test_a_list_of_claims_that_says_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "ring.toml").write_text('["1"]\ntext = "a"\nbar = "large"\nunit = ""\ncommand = ""\n')
    with pytest.raises(Malformed, match=r"ring\.toml: ring\.1: 'large' is no bar"):
        planned(tmp_path)
    (tmp_path / "ring.toml").write_text('["one"]\ntext = "a"\n')
    with pytest.raises(Malformed, match=r"ring\.toml: ring\.one is no id"):
        planned(tmp_path)
    (tmp_path / "ring.toml").write_text('["1"]\ntext = "a"\n')
    with pytest.raises(Malformed, match=r"ring\.toml: ring\.1: .*missing required field `bar`"):
        planned(tmp_path)


def test_a_record_that_was_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "ring.json").write_text('{"claims": [')
    with pytest.raises(Malformed, match=r"ring\.json: "):
        read_records(tmp_path)


def test_a_part_that_runs_again_replaces_its_own_claims_and_keeps_the_others(tmp_path: Path) -> None:
    path, values = tmp_path / "plan.json", iter([4, 1.5, 5])
    claimed = {"cost": lambda found: {"plan.1.cost": found}, "time": lambda found: {"plan.8": found}}
    for part in ("cost", "time", "cost"):
        record_parts(path, {}, [part], lambda _: next(values), {}, claimed)
    assert {one.claim.id: (one.claim.value, one.claim.holds) for one in read_records(tmp_path)} == {
        "plan.1.cost": (5.0, True),
        "plan.8": (1.5, True),
    }
    assert len(read_records(tmp_path)) == 2
