"""Generated parts of docs/published.md: what the newest record of benchmarks/published.py says, and the constants."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.published import halves
from muster.cost.measured import published
from muster.spec.devices import device_facts, device_names

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
HALVES = {"reports": "have not seen the constants", "fits": "set the constants"}
WAYS = {
    "as_used": "devices used as the source used them",
    "as_planned": "devices used as `muster plan` chooses",
    "typical": "as the source used them, with the typical constants of before",
}


def newest() -> tuple[str, dict[str, Any]]:
    path = sorted(RESULTS.glob("published-????-??-??.json"))[-1]
    return path.name, json.loads(path.read_text(encoding="utf-8"))


def sources() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = tomllib.loads((ROOT / "benchmarks" / "published.toml").read_text())["source"]
    return found


def summary() -> str:
    name, record = newest()
    lines = [f"From `benchmarks/results/{name}`:", ""]
    lines += ["| measurements that | forecast with | off in the median | worst | bias | beyond twice or half |"]
    lines += ["|---|---|--:|--:|--:|--:|"]
    for half, words in HALVES.items():
        found = record["summary"][half]
        for way, how in WAYS.items():
            one = found[way]
            lines.append(
                f"| {words} ({found['rows']}) | {how} | {one['median_off']:.1%} | {one['worst_times']:.2f} times "
                f"| {one['bias']:+.1%} | {one['beyond_twice']} |"
            )
    return "\n".join(lines)


def strangers() -> str:
    """How far off forecasts are for devices none of whose measurements set constants."""
    halved = halves(newest()[1]["rows"])
    known = {one["device"] for one in halved["fits"]}
    found = [one for one in halved["reports"] if one["device"] not in known]
    ratios = [one["faster"]["as_used"] for one in found]
    names = ", ".join(sorted({one["device"] for one in found}))
    return (
        f"Of {names} no measurement set anything; their {len(found)} forecasts are {min(ratios):.2f} to "
        f"{max(ratios):.2f} times what was published."
    )


def rows(half: str) -> str:
    """All of one half, those furthest off first."""
    listed = sources()
    lines = ["| measurement | source | devices | model, prompt + output, users | published | forecast | planned |"]
    lines += ["|---|---|---|---|--:|--:|--:|"]
    found = halves(newest()[1]["rows"])[half]
    for one in sorted(found, key=lambda row: -max(row["faster"]["as_used"], 1 / row["faster"]["as_used"])):
        source = listed[one["source"]]
        users = {0: "as many as fit", 1: "1"}.get(one["users"], str(one["users"]))
        devices = one["device"] if one["count"] == 1 else f"{one['count']} x {one['device']}, {one['split']}"
        work = f"{one['model']}, {one['prompt']} + {one['output']}, {users}"
        cells = [f"`{one['id']}`", f"[{source['title']}]({source['address']}), {source['date']}", devices, work]
        cells += [f"{one['figure']:g} {one['unit']}", *(_off(one, way) for way in ("as_used", "as_planned"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _off(row: dict[str, Any], way: str) -> str:
    return f"{row[way]:.4g} ({row['faster'][way]:.2f} x)"


def constants() -> str:
    """Families, joins, and devices that depart from their family."""
    table = published()
    lines = ["| family | multiplications reach | memory reaches | attention reaches | a step | a layer |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for name, one in table.families.items():
        lines.append(
            f"| {name} | {one.matmul_share:.0%} | {one.memory_share:.0%} | {one.attention_share:.0%} "
            f"| {1e6 * one.step_s:.0f} us | {1e6 * one.layer_s:.0f} us |"
        )
    lines += ["", "| joined by | an all-reduce, however small | of the bandwidth between two |", "|---|--:|--:|"]
    for name, one in table.joins.items():
        lines.append(f"| {name} | {1e6 * one.reduce_s:.0f} us | {one.share:.0%} |")
    own = [facts for facts in map(device_facts, device_names()) if facts.reaches]
    lines += ["", "| device | family | multiplications reach | memory reaches |", "|---|---|--:|--:|"]
    for facts in own:
        shares = (f"{facts.reaches[what]:.0%}" if what in facts.reaches else "" for what in ("matmul", "memory"))
        lines.append(f"| {facts.name} | {facts.family} | {' | '.join(shares)} |")
    return "\n".join(lines)
