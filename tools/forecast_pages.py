"""Generated parts of docs/forecast.md: what the newest record of benchmarks/forecast.py says."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
FIGURES = {"tokens_per_s": "tokens/s", "first_token_s": "first token, s", "request_s": "request, s"}


def newest() -> tuple[str, dict[str, Any]]:
    path = sorted(RESULTS.glob("forecast-????-??-??.json"))[-1]
    return path.name, json.loads(path.read_text(encoding="utf-8"))


def summary() -> str:
    name, record = newest()
    found = record["summary"]
    rows = [
        f"| {words} | {found[key]['median_error']:.1%} | {found[key]['worst_error']:.1%} | {found[key]['bias']:+.1%} |"
        for key, words in FIGURES.items()
    ]
    head = f"{found['runs']} runs, {found['failed']} of which broke (`benchmarks/results/{name}`):"
    return "\n".join([head, "", "| figure | median error | worst error | bias |", "|---|--:|--:|--:|", *rows])


def runs() -> str:
    """Every run, those that broke among them."""
    titles = " | ".join(f"{words}: forecast, measured" for words in FIGURES.values())
    lines = [f"| | run | model | processes, stages | {titles} |", "|--:|---|---|--:|" + "--:|" * len(FIGURES)]
    lines += [_row(number, one) for number, one in enumerate(newest()[1]["runs"], 1)]
    return "\n".join(lines)


def _row(number: int, one: dict[str, Any]) -> str:
    case = one["case"]
    if "failed" in one:
        return f"| {number} | {case['name']} | {case['model']} | broke: {one['failed'][:60]} |" + " |" * len(FIGURES)
    stages = len(one["plan"]["pipelines"][0]["stages"])
    figures = (
        f"{one['forecast']['simulated'][key]:.3g}, {one['measured'][key]:.3g} ({one['error'][key]:+.0%})"
        for key in FIGURES
    )
    size = f"{len(case['machines'])}, {stages}"
    return f"| {number} | {case['name']} | {case['model']} | {size} | " + " | ".join(figures) + " |"
