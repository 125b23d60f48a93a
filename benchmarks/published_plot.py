"""How far forecasts are from what others published: a line a device, a point a measurement. Draws a record."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from muster.spec.devices import device_facts

KINDS = {
    "one user, one device": ("o", "#4269d0"),
    "one user, several devices": ("s", "#e07b00"),
    "many users, one device": ("^", "#2b8a5b"),
    "many users, several devices": ("D", "#b0389d"),
    "prompt, until its first token": ("P", "#7a6a58"),
}
TICKS = {0.5: "half", 0.8: "0.8", 1.0: "as\npublished", 1.25: "1.25", 2.0: "twice"}
FAMILIES = ("apple", "geforce", "low-power", "workstation", "hbm-pcie", "hbm")
FAR = 1.5
"""Points further off are named."""


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Left what fitted the constants, right what did not."""
    devices = sorted(
        {one["device"] for one in rows}, key=lambda name: (FAMILIES.index(device_facts(name).family), name)
    )
    figure, panels = plt.subplots(1, 2, figsize=(14, 8.4), sharey=True)
    for axes, fits in zip(panels, (True, False), strict=True):
        _panel(axes, [one for one in rows if one["fits"] == fits], devices, fits)
    handles = [
        Line2D([], [], marker=mark, color=colour, linestyle="", label=name) for name, (mark, colour) in KINDS.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(KINDS), frameon=False, fontsize=10)
    figure.suptitle("How fast Muster forecasts a device, as a multiple of what others measured on it", fontsize=14)
    figure.subplots_adjust(left=0.12, right=0.985, top=0.88, bottom=0.12, wspace=0.04)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def kind(row: dict[str, Any]) -> str:
    if row["unit"] in ("prompt tokens/s", "ms to first token"):
        return "prompt, until its first token"
    users = "one user" if row["users"] == 1 else "many users"
    return f"{users}, {'one device' if row['count'] == 1 else 'several devices'}"


def _panel(axes: Axes, rows: Sequence[dict[str, Any]], devices: Sequence[str], fits: bool) -> None:
    ratios = [one["faster"]["as_used"] for one in rows]
    axes.axvspan(0.5, 2.0, color="#f4f4f4", lw=0)
    axes.axvspan(0.8, 1.2, color="#dfe8dd", lw=0)
    axes.axvline(1.0, color="#666666", lw=0.8)
    for number in range(len(devices)):
        axes.axhline(number, color="#dddddd", lw=0.5, zorder=0)
    named: Counter[str] = Counter()
    for row, ratio in zip(rows, ratios, strict=True):
        mark, colour = KINDS[kind(row)]
        line = devices.index(row["device"])
        axes.scatter(ratio, line, marker=mark, color=colour, s=34, alpha=0.75, lw=0, zorder=3)
        if max(ratio, 1 / ratio) > FAR:
            right = ratio > 1
            above = 7 + 9 * named[row["device"]]
            named[row["device"]] += 1
            axes.annotate(
                row["id"],
                (ratio, line),
                (0, above),
                textcoords="offset points",
                fontsize=7.5,
                ha="right" if right else "left",
            )
    share = median(abs(ratio - 1) for ratio in ratios)
    worst = max(max(ratio, 1 / ratio) for ratio in ratios)
    what = "Measurements that set the constants" if fits else "Measurements that the constants have not seen"
    error = f"median {share:.0%} off, worst {worst:.2f} times"
    axes.set_title(f"{what} ({len(rows)})\n{error}; green: within 20 %, grey: twice or half", fontsize=11)
    axes.set(xscale="log", xlim=(0.42, 2.4))
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.minorticks_off()
    axes.set_yticks(range(len(devices)), devices)
    axes.set_ylim(len(devices) - 0.4, -0.9)
    axes.set_xlabel("forecast too slow      ←      →      forecast too fast")
