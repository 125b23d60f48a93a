"""`make claims`: one table, one exit code, one page, and a claim that is tried again by its own command."""

import json
from pathlib import Path

import pytest

from benchmarks.register import PLANNED, RESULTS, ROOT, Planned, claims, newest, planned, read_records, titles
from benchmarks.structure import public_classes, size
from tools.claim_pages import register
from tools.claims import main

BENCHMARK = """
import json, sys
made = {{"id": "ring.1.round", "text": "Rings are round", "published": "", "bar": ">= 1.8", "value": {value},
         "unit": "times rounder", "holds": {holds}, "command": "python ring.py", "date": "2026-11-30",
         "machine": "a desk"}}
open(sys.argv[2], "w").write(json.dumps({{"claims": [made]}}))
sys.exit({code})
"""


class Register:
    """A register of two claims in a folder of its own, with a benchmark for the first."""

    def __init__(self, folder: Path) -> None:
        self.planned, self.results, self.benchmark = folder / "claims", folder / "results", folder / "ring_speed.py"
        self.planned.mkdir()
        self.results.mkdir()
        (self.planned / "ring.toml").write_text(
            f'title = "Rings"\n[1]\ncommand = "python {self.benchmark} --json {{json}}"\n'
            '[1.round]\ntext = "Rings are round"\nbar = ">= 1.8"\nunit = "times rounder"\n'
            'published = "1.8 times (Ring, section 3)"\nremark = "On paper."\n'
            '[2]\ntext = "Rings | shine"\nbar = "< 1"\nunit = "lux"\ncommand = "python shine.py {json}"\n'
        )

    @property
    def known(self) -> dict[str, Planned]:
        return planned(self.planned)

    def keep(self, value: float, date: str, name: str = "") -> None:
        made = claims({"ring.1.round": value}, "a desk", date, "python ring.py", self.known)
        (self.results / (name or f"ring-{date}.json")).write_text(json.dumps({"claims": made}))

    def finds(self, value: float, holds: bool, code: int = 0) -> None:
        self.benchmark.write_text(BENCHMARK.format(value=value, holds=holds, code=code))

    def __call__(self, *words: str) -> int:
        return main([*words, "--planned", str(self.planned), "--results", str(self.results)])

    def page(self) -> str:
        return register(self.known, titles(self.planned), read_records(self.results))


@pytest.fixture
def rings(tmp_path: Path) -> Register:
    return Register(tmp_path)


def test_a_register_without_records_says_that_nothing_has_been_run(
    rings: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rings() == 0
    assert capsys.readouterr().out.count("not yet run") == 2
    assert "0 of 2 hold, 0 do not, 2 are not yet run." in rings.page()
    assert "| Not yet run; the bar is at least 1.8. On paper. |" in rings.page()


def test_a_claim_that_never_held_is_shown_and_is_no_failure(
    rings: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    rings.keep(1.5, "2026-11-20")
    assert rings() == 0
    assert "does not hold" in capsys.readouterr().out
    assert (
        "1.5 times rounder | Does not hold: the bar is at least 1.8. On paper. | 2026-11-20, a desk |" in rings.page()
    )


def test_a_claim_that_held_before_and_does_not_now_is_a_failure(
    rings: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    rings.keep(2.0, "2026-11-20")
    assert rings() == 0
    rings.keep(1.5, "2026-11-21")
    assert rings() == 1
    said = capsys.readouterr().out
    assert "Held before and does not now: ring.1.round (1.5 times rounder, the bar is at least 1.8)." in said
    assert "No longer holds: the bar is at least 1.8." in rings.page()
    rings.keep(1.9, "2026-11-22")
    assert rings() == 0
    assert "1 of 2 hold, 0 do not, 1 are not yet run." in rings.page()


def test_a_malformed_record_is_a_failure_that_names_it(rings: Register, capsys: pytest.CaptureFixture[str]) -> None:
    (rings.results / "ring.json").write_text('{"claims": [{"id": "ring.1.round"}]}')
    assert rings() == 1
    assert "ring.json: claim 1: " in capsys.readouterr().out


def test_a_record_of_a_claim_that_nobody_wrote_down_is_a_failure(
    rings: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    rings.keep(2.0, "2026-11-20")
    (rings.planned / "ring.toml").unlink()
    assert rings() == 1
    assert "In records, but not in benchmarks/claims: ring.1.round." in capsys.readouterr().out


def test_a_claim_whose_bar_was_moved_is_not_yet_run_against_it(rings: Register) -> None:
    rings.keep(2.0, "2026-11-20")
    written = rings.planned / "ring.toml"
    written.write_text(written.read_text().replace(">= 1.8", ">= 2.5"))
    assert "Judged by an earlier bar, at least 1.8; not yet run against at least 2.5." in rings.page()


def test_the_page_is_the_same_whatever_the_order_of_files(rings: Register) -> None:
    rings.keep(2.0, "2026-11-20", "b.json")
    rings.keep(1.5, "2026-11-19", "c.json")
    first = rings.page()
    rings.keep(2.0, "2026-11-20", "c.json")
    rings.keep(1.5, "2026-11-19", "b.json")
    assert rings.page() == first
    assert "| Rings \\| shine |" in first


def test_a_claim_is_tried_again_by_its_command_and_the_record_is_not_kept(
    rings: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    rings.keep(2.0, "2026-11-20")
    rings.finds(1.9, True)
    assert rings("ring.1") == 0
    assert "2 times rounder on 2026-11-20" in capsys.readouterr().out
    assert len(list(rings.results.iterdir())) == 1
    rings.finds(1.7, False)
    assert rings("ring.1.round") == 1
    assert "Held before and does not now: ring.1.round (1.7 times rounder" in capsys.readouterr().out


def test_the_whole_of_it_is_kept(rings: Register) -> None:
    rings.finds(1.9, True)
    assert rings("ring.1", "--full") == 0
    (kept,) = rings.results.iterdir()
    assert kept.name.startswith("ring-speed-20")
    assert newest(read_records(rings.results))["ring.1.round"].claim.value == 1.9


def test_a_command_that_breaks_is_a_failure(rings: Register, capfd: pytest.CaptureFixture[str]) -> None:
    rings.benchmark.write_text("raise SystemExit(3)")
    assert rings("ring.1") == 1
    said = capfd.readouterr().out
    assert "It ended with 3." in said
    assert "The command left no record of ring.1.round." in said


def test_an_id_that_is_not_in_the_register_is_refused(rings: Register) -> None:
    assert rings("ring.11") == 2
    assert rings("rin") == 2


def test_every_record_of_this_repository_is_sound_and_its_claim_written_down() -> None:
    found, known = read_records(RESULTS), planned(PLANNED)
    assert found
    assert [one.claim.id for one in found if one.claim.id not in known] == []


def test_what_has_been_run_can_be_run_again() -> None:
    known, tried = planned(), newest(read_records())
    words = [words.split() for name in tried for words in (known[name].command, known[name].full) if words]
    assert [line for line in words if line[0] != "python" or not (ROOT / line[1]).exists()] == []
    assert [line for line in words if line[-1] != "{json}"] == []


def test_a_class_name_is_ambiguous_if_two_modules_define_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Turn:\n    class Inner: ...\nclass _Own: ...\n(one,) = plan.pipelines\n")
    (tmp_path / "b.py").write_text("class Turn: ...\nclass Turn: ...\nclass _Own: ...\nclass Other: ...\n")
    assert public_classes("class A: ...\nclass A: ...\nclass _B: ...\n") == {"A"}
    assert size(tmp_path) == {"lines": 8, "files": 2, "ambiguous": ["Turn"], "only_pipeline": ["a.py"]}
