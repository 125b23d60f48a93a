"""Does what is forecast come true? Real pools of processes against what was said about them before the first request.

A run starts a head and two to six workers as processes of this machine, joined by ticket over QUIC, with their links
shaped as a shipped scenario says and with a share of this machine's speed each (a worker sleeps after each step for
what a machine so slow would still be computing). The head measures its pool and places the model. From that pool and
that placement, and from constants that were fitted to other runs, the simulator says how many tokens a second all
requests together will get, how long they wait for their first token, and how long they take. Then the requests are sent
over HTTP and timed at the client. Every repetition has fresh prompts, and medians over the repetitions count.

    calibrate   steps of single stages in one process, and requests one at a time on pools of equal machines:
                constants of the cost model per model, overhead of a message and of the door   -> constants-DATE.json
    run         the runs of forecast_cases.py                                                  -> forecast-DATE.json
    plot        what was forecast against what was measured                       -> docs/pictures/forecast.png

    python benchmarks/forecast.py calibrate run plot

Some runs are blind: their cases were written down before they were ever run, and so were the method and the constants.
No run is left out: one that broke is in the record with what it said, and counts as missed. Other work on the machine
makes all of it slower; each run has the load before and after it, and the processor time that its own processes took.
With --nice, the measured processes' scheduling group is preferred to others (Linux, root); the steps of the calibration
are in processor time, where that matters less.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.forecast_cases import CASES, Case
from benchmarks.forecast_constants import calibrate, read
from benchmarks.forecast_plot import plot
from benchmarks.forecast_pool import load, prefer
from benchmarks.forecast_run import run
from benchmarks.records import machine, percent
from benchmarks.register import claims

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "forecast.png"
TODAY = datetime.now(UTC).date().isoformat()
FIGURES = ("tokens_per_s", "first_token_s", "request_s")


def run_all(cases: Sequence[Case], home: Path, arguments: argparse.Namespace) -> None:
    """Writes the record after every run, so that a campaign that is broken off keeps what it has."""
    constants, overheads = read(arguments.constants)
    output: Path = arguments.output
    record: dict[str, Any] = {
        "question": __doc__.splitlines()[0] if __doc__ else "",
        "method": __doc__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "note": arguments.note,
        "nice": arguments.nice,
        "constants": arguments.constants.name,
        "load_before": load(),
        "runs": [],
    }
    for case in cases:
        try:
            one = asyncio.run(run(case, home, constants[case.model], overheads, arguments.nice))
        except Exception as error:  # whatever broke, the other runs go on, and this one is not forgotten
            one = {"case": asdict(case), "failed": repr(error)}
        record["runs"].append(one)
        record["summary"] = summary(record["runs"])
        record["blind"] = summary([one for one in record["runs"] if one["case"]["blind"]])
        record["claims"] = claims(claimed(record), machine(), record["date"])
        output.write_text(json.dumps(record, indent=1) + "\n")
        say(told(one))
    for part in ("summary", "blind"):
        say(f"{part}: {json.dumps(record[part], indent=1)}")


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the errors of all runs; a run that broke is not among them but is counted."""
    done = [one for one in runs if "error" in one]
    return {
        "runs": len(runs),
        "failed": len(runs) - len(done),
        **{
            name: {
                "median_error": round(statistics.median(abs(one["error"][name]) for one in done), 4),
                "worst_error": round(max(abs(one["error"][name]) for one in done), 4),
                "bias": round(statistics.median(one["error"][name] for one in done), 4),
            }
            for name in FIGURES
            if done
        },
    }


def claimed(record: dict[str, Any]) -> dict[str, float]:
    """Only what runs of this record speak for."""
    found, blind = record["summary"], record.get("blind", {})
    values = {"forecast.3": found["failed"]}
    if found["runs"] > found["failed"]:
        words = {"tokens_per_s": "tokens", "first_token_s": "first-token", "request_s": "request"}
        values |= {f"forecast.1.{words[name]}": percent(found[name]["median_error"]) for name in FIGURES}
        values["forecast.2.all"] = percent(max(found[name]["worst_error"] for name in FIGURES))
    if blind and blind["runs"] > blind["failed"]:
        values["forecast.2.blind"] = percent(max(blind[name]["worst_error"] for name in FIGURES))
    return values


def told(one: dict[str, Any]) -> str:
    name = f"{one['case']['name']} ({one['case']['model']})"
    if "failed" in one:
        return f"{name}: {one['failed']}"
    figures = (
        f"{figure} {one['forecast']['simulated'][figure]:.3g} forecast, {one['measured'][figure]:.3g} measured, "
        f"{one['error'][figure]:+.1%}"
        for figure in FIGURES
    )
    return f"{name}: " + "; ".join(figures)


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("calibrate", "run", "plot"))
    parser.add_argument("--constants", type=Path, default=RESULTS / f"constants-{TODAY}.json")
    parser.add_argument("--output", type=Path, default=RESULTS / f"forecast-{TODAY}.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--models", type=Path, help="where to keep the generated models", default=None)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of runs, counted from 1")
    parser.add_argument("--nice", type=int, default=0, help="of the scheduling group of all measured processes")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as temporary:
        home: Path = arguments.models or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        prefer(os.getpid(), arguments.nice)
        if "calibrate" in arguments.parts:
            found = calibrate(home, arguments.nice, say)
            arguments.constants.write_text(json.dumps(found, indent=1) + "\n")
        if "run" in arguments.parts:
            chosen = [case for number, case in enumerate(CASES, 1) if not arguments.only or number in arguments.only]
            run_all(chosen, home, arguments)
        if "plot" in arguments.parts:
            arguments.picture.parent.mkdir(parents=True, exist_ok=True)
            plot(json.loads(arguments.output.read_text())["runs"], arguments.picture)


if __name__ == "__main__":
    main()
