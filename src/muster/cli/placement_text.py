"""The placement as a small picture of text. Pure; knows nothing of terminals.

╭ oslo ────────╮        ╭ lima ────────╮
│ ada          │ 20 ms  │ bob          │
│ layers 0–2   ├───────▶│ layers 3–7   │
╰──────────────╯        ╰──────────────╯
"""

from collections.abc import Mapping, Sequence
from typing import Any


def placement_lines(stages: Sequence[Mapping[str, Any]], width: int = 100) -> list[str]:
    """`stages` in ring order, each with name, region, first, last and, where known, `latency_s` to the next one.

    Boxes flow onto further rows when one row would be wider than `width`.
    """
    if not stages:
        return []
    inner = max(12, *(len(text) for stage in stages for text in _texts(stage)))
    per_row = max(1, (width + 9) // (inner + 13))
    rows = [stages[start : start + per_row] for start in range(0, len(stages), per_row)]
    return [line for row in rows for line in _row(row, inner, more=row is not rows[-1])]


def _texts(stage: Mapping[str, Any]) -> tuple[str, str, str]:
    first, last = int(stage["first"]), int(stage["last"])
    layers = f"layer {first}" if last - first == 1 else f"layers {first}–{last - 1}"
    return str(stage.get("region", "")), str(stage.get("name") or stage.get("node", ""))[:24], layers


def _row(stages: Sequence[Mapping[str, Any]], inner: int, more: bool) -> list[str]:
    lines = ["", "", "", ""]
    for index, stage in enumerate(stages):
        region, name, layers = _texts(stage)
        joined = index + 1 < len(stages) or more
        latency_s = stage.get("latency_s")
        delay = f"{latency_s * 1000:.0f} ms" if joined and latency_s else ""
        lines[0] += f"╭ {region} " + "─" * (inner - len(region)) + "╮" + " " * 9
        lines[1] += f"│ {name:<{inner}} │{delay:^9}"
        lines[2] += f"│ {layers:<{inner}} " + ("├───────▶ " if joined else "│")
        lines[3] += "╰" + "─" * (inner + 2) + "╯" + " " * 9
    return [line.rstrip() for line in lines]
