"""Claims that tests show: how many of the named tests do not pass.

    python benchmarks/by_tests.py structure.2 tests/broker/test_forecast.py [--json FILE]

A test that is skipped shows nothing, so it counts as one that does not pass; no tests at all are no record.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts
from benchmarks.register import ROOT, planned

UNIT = "of its tests do not pass"
"""Of every claim that is shown this way."""


def run(tests: Sequence[str]) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        every = ("-m", "chaos or not chaos")  # the long ones, too
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *every, f"--junitxml={report}", *tests]
        subprocess.run(command, cwd=ROOT, check=False)
        suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    if suite is None or not int(suite.get("tests", 0)):
        raise SystemExit(f"No tests in {' '.join(tests)}.")
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("id", help="of the claim")
    parser.add_argument("tests", nargs="+", help="files or names, as pytest takes them")
    parser.add_argument("--json", type=Path, help="where to write the record; other claims that are there stay")
    arguments = parser.parse_args()
    if arguments.id not in {name for name, claim in planned().items() if claim.unit == UNIT}:
        raise SystemExit(f"{arguments.id} is no claim with the unit {UNIT!r}.")
    record_parts(
        arguments.json,
        {"benchmark": "by_tests", "method": __doc__ or ""},
        [arguments.id],
        lambda _: run(arguments.tests),
        {"tests": " ".join(arguments.tests)},
        {arguments.id: lambda found: {arguments.id: found["failures"] + found["errors"] + found["skipped"]}},
    )


if __name__ == "__main__":
    main()
