"""Generated parts of docs/forecast.md: what the newest record of benchmarks/forecast.py says."""

import json
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
FIGURES = {"tokens_per_s": "tokens/s", "first_token_s": "first token, s", "request_s": "request, s"}


def newest() -> tuple[str, dict[str, Any]]:
    path = sorted(RESULTS.glob("forecast-????-??-??.json"))[-1]
    return path.name, json.loads(path.read_text(encoding="utf-8"))


def summary() -> str:
    name, record = newest()
    found, blind = record["summary"], record["blind"]
    rows = [f"| {words} | {_errors(found[key])} | {_errors(blind[key])} |" for key, words in FIGURES.items()]
    head = (
        f"{found['runs']} runs, {found['failed']} of which broke, {blind['runs']} of them blind, of which "
        f"{blind['failed']} broke (`benchmarks/results/{name}`):"
    )
    titles = " | ".join(f"{errors}{of}" for of in ("", ", blind") for errors in ("median error", "worst", "bias"))
    return "\n".join([head, "", f"| figure | {titles} |", "|---|" + "--:|" * 6, *rows])


def _errors(found: dict[str, float]) -> str:
    return f"{found['median_error']:.1%} | {found['worst_error']:.1%} | {found['bias']:+.1%}"


def furthest() -> str:
    """The run with the largest error, and what its busiest stage did."""
    runs = [(number, one) for number, one in enumerate(newest()[1]["runs"], 1) if "error" in one]
    number, one = max(runs, key=lambda pair: max(map(abs, pair[1]["error"].values())))
    figure = max(FIGURES, key=lambda key: abs(one["error"][key]))
    said = one["forecast"]["busy_s"]
    stage = max(range(len(said)), key=said.__getitem__)
    done_s = median(repetition["busy_s"][stage] for repetition in one["repetitions"])
    return (
        f"The furthest off is run {number}, {one['case']['name']}: {FIGURES[figure].removesuffix(', s')} "
        f"{one['error'][figure]:+.0%}. Its busiest stage computed\nfor {done_s:.1f} s, where the simulator said "
        f"{said[stage]:.1f} s."
    )


def earlier() -> str:
    """Campaigns before the newest, whole ones and broken ones."""
    titles = " | ".join(f"{words}: median, worst" for words in FIGURES.values())
    lines = [f"| record | runs | {titles} |", "|---|--:|" + "--:|" * len(FIGURES)]
    for path in sorted(RESULTS.glob("forecast-????-??-??-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["summary"]
        errors = (f"{found[key]['median_error']:.1%}, {found[key]['worst_error']:.1%}" for key in FIGURES)
        lines.append(f"| `{path.name}` | {found['runs']} | " + " | ".join(errors) + " |")
    return "\n".join(lines)


def cold() -> str:
    """What a pause costs a step, by model: alone in a process, where the constants are fitted, and in a worker."""
    record = json.loads((RESULTS / newest()[1]["constants"]).read_text(encoding="utf-8"))
    more = record["overheads"]
    titles = "after a long pause | in a worker | pause that costs 63 % of it | error of the fit: median, worst"
    lines = [f"| model | {titles} |", "|---|--:|--:|--:|--:|"]
    for name, fit in record["models"].items():
        found = fit["constants"]
        cold_ms, worker_ms = 1e3 * found["cold_s"], 1e3 * (found["cold_s"] + more["cold_s"])
        errors = f"{fit['median_error']:.1%}, {fit['worst_error']:.0%}"
        cools_ms = 1e3 * found["cools_s"]
        lines.append(f"| {name} | {cold_ms:.2f} ms | {max(0.0, worker_ms):.2f} ms | {cools_ms:.0f} ms | {errors} |")
    return "\n".join(lines)


def runs() -> str:
    """Every run, those that broke among them."""
    titles = " | ".join(f"{words}: forecast, measured" for words in FIGURES.values())
    lines = [f"| | run | model | processes, stages | {titles} |", "|--:|---|---|--:|" + "--:|" * len(FIGURES)]
    lines += [_row(number, one) for number, one in enumerate(newest()[1]["runs"], 1)]
    return "\n".join(lines)


def _row(number: int, one: dict[str, Any]) -> str:
    case = one["case"]
    name = case["name"] + (" (blind)" if case["blind"] else "")
    if "failed" in one:
        return f"| {number} | {name} | {case['model']} | broke: {one['failed'][:60]} |" + " |" * len(FIGURES)
    stages = len(one["plan"]["pipelines"][0]["stages"])
    figures = (
        f"{one['forecast']['simulated'][key]:.3g}, {one['measured'][key]:.3g} ({one['error'][key]:+.0%})"
        for key in FIGURES
    )
    size = f"{len(case['machines'])}, {stages}"
    return f"| {number} | {name} | {case['model']} | {size} | " + " | ".join(figures) + " |"
