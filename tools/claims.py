"""The register of claims, printed, or one claim tried again. Exits with 1 where one that held does not hold any more.

    make claims                     the newest record of each claim
    make claims ID=plan.1           tries plan.1, all parts of it, in a few minutes; what comes out is shown, not kept
    make claims ID=plan.1 FULL=1    the whole of it; the record goes into benchmarks/results

Judges nothing itself: figures come from the benchmarks, verdicts from the bars.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.register import (
    PLANNED,
    RESULTS,
    ROOT,
    Found,
    Malformed,
    Planned,
    fell,
    lapsed,
    newest,
    planned,
    read_record,
    read_records,
)
from muster.cli.output import out, show_table
from tools.claim_pages import bar, figure

COLUMNS = ("id", "", "here", "bar", "date", "claim")
WIDTH = 160
"""At least, so that a log has a line for most claims."""


def show(known: Mapping[str, Planned], found: Sequence[Found]) -> int:
    """The newest of each; 1 if one that held before does not."""
    last = newest(found)
    show_table("", COLUMNS, [cells(claim_id, known[claim_id], last.get(claim_id)) for claim_id in known])
    if unknown := sorted(set(last) - set(known)):
        print(f"In records, but not in benchmarks/claims: {', '.join(unknown)}.")
    return told(lapsed(found)) or int(bool(unknown))


def cells(claim_id: str, claim: Planned, last: Found | None) -> list[str]:
    if last is None:
        return [claim_id, "not yet run", "", bar(claim.bar), "", claim.text]
    word = "holds" if last.claim.holds else "does not hold"
    return [claim_id, word, figure(last.claim), bar(last.claim.bar), last.claim.date[:10], claim.text]


def told(fallen: Iterable[Found]) -> int:
    names = [f"{one.claim.id} ({figure(one.claim)}, the bar is {bar(one.claim.bar)})" for one in fallen]
    if names:
        print(f"Held before and does not now: {'; '.join(names)}.")
    return int(bool(names))


def try_again(chosen: Mapping[str, Planned], earlier: Sequence[Found], results: Path, full: bool) -> int:
    """Run the commands of these claims, and lay what comes out beside what is known; 1 if one that held does not."""
    now: list[Found] = []
    with tempfile.TemporaryDirectory() as scratch:
        for command in dict.fromkeys((full and claim.full) or claim.command for claim in chosen.values()):
            now += [one for one in run(command, results if full else Path(scratch)) if one.claim.id in chosen]
    known = newest(earlier)
    rows = [
        [*cells(one.claim.id, chosen[one.claim.id], one)[:4], before(known.get(one.claim.id)), one.claim.text]
        for one in now
    ]
    show_table("", ("id", "", "now", "bar", "before", "claim"), rows)
    if missing := sorted(set(chosen) - {one.claim.id for one in now}):
        print(f"The command left no record of {', '.join(missing)}.")
    return told(one for one in now if fell(one, earlier)) or int(bool(missing))


def before(one: Found | None) -> str:
    return "never run" if one is None else f"{figure(one.claim)} on {one.claim.date[:10]}"


def run(command: str, folder: Path) -> list[Found]:
    """What the command's record says, which goes into the folder under the program's name and today's date."""
    words = shlex.split(command)
    record = folder / f"{Path(words[1]).stem.replace('_', '-')}-{datetime.now(UTC):%Y-%m-%d}.json"
    words = [sys.executable, *(str(record) if word == "{json}" else word for word in words[1:])]
    print("$", shlex.join(words), flush=True)
    code = subprocess.run(words, cwd=ROOT, check=False).returncode
    if code:
        print(f"It ended with {code}.")
    return read_record(record) if record.exists() else []


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("id", nargs="?", help="of the claim to try, with or without a part; none: print the register")
    parser.add_argument("--full", action="store_true", help="the whole of it, and keep the record")
    parser.add_argument("--planned", type=Path, default=PLANNED, help="folder of the claims")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    arguments = parser.parse_args(words)
    out.width = max(out.width, WIDTH)
    try:
        known, found = planned(arguments.planned), read_records(arguments.results)
        if arguments.id is None:
            return show(known, found)
        chosen = {name: claim for name, claim in known.items() if f"{name}.".startswith(f"{arguments.id}.")}
        if not chosen:
            print(f"There is no claim {arguments.id}; `make claims` lists them.")
            return 2
        return try_again(chosen, found, arguments.results, arguments.full)
    except Malformed as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
