"""Forecasts against what others published (`published.toml`).

    python benchmarks/published.py run [--only PART OF AN ID ...] [--output FILE]
    python benchmarks/published.py show ID          its source, its pool and the command that forecasts it
    python benchmarks/published.py plot RECORD PICTURE

Each measurement is forecast with the devices as the source used them, once with the constants that come with Muster and
once with the typical ones of before; and once as `muster plan` would use the devices. Measures nothing itself.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.published_rows import Row, as_planned, as_used, faster, figure, read
from benchmarks.records import machine
from benchmarks.register import claims
from muster.cost.measured import constants_of
from muster.cost.pace import TYPICAL
from muster.spec.plan import Plan

WAYS = ("as_used", "as_planned", "typical")


def forecast(row: Row) -> dict[str, Any]:
    """The row, each forecast in the unit of what was published, and how many times too fast it is."""
    constants = constants_of(row.pool)
    used, planned = as_used(row, constants), as_planned(row, constants)
    found = {
        "as_used": figure(row, used, constants),
        "as_planned": figure(row, planned, constants),
        "typical": figure(row, as_used(row, TYPICAL), TYPICAL),
    }
    return {
        **asdict(row),
        "fits": row.fits,
        **{name: float(f"{value:.5g}") for name, value in found.items()},
        "faster": {name: round(faster(row, value), 4) for name, value in found.items()},
        "planned": in_words(planned),
    }


def in_words(plan: Plan) -> list[str]:
    """Of each pipeline, how many devices each stage has."""
    return [" + ".join(str(len(stage.devices)) for stage in pipeline.stages) for pipeline in plan.pipelines]


def off(faster_by: float) -> float:
    """How many times too fast or too slow."""
    return max(faster_by, 1 / faster_by)


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """By the way of forecasting: share off in the median, times off in the worst case, and bias."""
    kept = list(rows)
    result: dict[str, Any] = {"rows": len(kept)}
    for way in WAYS:
        ratios = [one["faster"][way] for one in kept]
        result[way] = {
            "median_off": round(statistics.median(abs(ratio - 1) for ratio in ratios), 4),
            "worst_times": round(max(map(off, ratios)), 3),
            "bias": round(statistics.median(ratios) - 1, 4),
            "beyond_twice": sum(off(ratio) > 2 for ratio in ratios),
        }
    return result


def run(only: Sequence[str], output: Path | None) -> None:
    date = datetime.now(UTC).isoformat(timespec="seconds")
    rows = []
    for row in read()[0]:
        if not only or any(part in row.id for part in only):
            rows.append(forecast(row))
            says = ", ".join(f"{way} {one:.2f}" for way, one in rows[-1]["faster"].items())
            print(f"{row.id}: times too fast: {says}", flush=True)
    kept = {name: summary(ours) for name, ours in halves(rows).items() if ours}
    print(json.dumps(kept, indent=1))
    record = {"about": {"date": date, "machine": machine()}, "summary": kept, "rows": rows}
    if not only:
        record["claims"] = claims(claimed(kept["reports"]), machine(), date)
    if output:
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def halves(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Those that fitted the constants, and those that only report the error."""
    return {"fits": [one for one in rows if one["fits"]], "reports": [one for one in rows if not one["fits"]]}


def claimed(held_out: dict[str, Any]) -> dict[str, float]:
    return {
        "published.1.median": round(100 * held_out["as_used"]["median_off"], 2),
        "published.1.worst": held_out["as_used"]["worst_times"],
        "published.2.median": round(100 * held_out["as_planned"]["median_off"], 2),
    }


def show(name: str) -> None:
    rows, sources = read()
    row = next((row for row in rows if row.id == name), None)
    if row is None:
        raise SystemExit(f"No row {name!r} in published.toml.")
    print(f"# {sources[row.source]}\n# published: {row.figure:g} {row.unit}; used: {row.split or 'one device'}")
    print(f"# {row.command}\n\n{row.pool_text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("--only", nargs="*", default=())
    runs.add_argument("--output", type=Path)
    verbs.add_parser("show").add_argument("id")
    draws = verbs.add_parser("plot")
    draws.add_argument("record", type=Path)
    draws.add_argument("picture", type=Path)
    args = parser.parse_args()
    if args.verb == "run":
        run(args.only, args.output)
    elif args.verb == "show":
        show(args.id)
    else:
        from benchmarks.published_plot import plot

        plot(json.loads(args.record.read_text(encoding="utf-8"))["rows"], args.picture)


if __name__ == "__main__":
    main()
