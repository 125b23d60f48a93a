"""Forecast against measured: one panel a figure, one point a run, hollow if blind. Draws a record, measures nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

PANELS = {
    "tokens_per_s": "tokens per second, all requests together",
    "first_token_s": "seconds to the first token (mean)",
    "request_s": "seconds to the last token (mean)",
}
COLOURS = {"tiny": "#4269d0", "dense": "#e07b00", "experts": "#2b8a5b"}
MARKS = {"tiny": "o", "dense": "s", "experts": "^"}
BANDS = ((0.25, "#f1f1f1", "±25 %"), (0.10, "#dcdcdc", "±10 %"))


def plot(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Runs are numbered as in the record, each with the worst of its three errors.

    The suffix of `path` says which kind of file it is.
    """
    done = [(number, one) for number, one in enumerate(runs, 1) if "error" in one]
    figure, panels = plt.subplots(1, 3, figsize=(15, 7.6))
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, name, title, done)
    panels[0].legend(loc="upper left", frameon=False, fontsize=9)
    names = [_line(number, one) for number, one in done]
    third = -(-len(names) // 3)
    for column in range(3):
        text = "\n".join(names[column * third : (column + 1) * third])
        figure.text(0.03 + 0.325 * column, 0.19, text, fontsize=8.5, va="top", linespacing=1.5)
    title = "Forecast before the first request, and measured on the real pool of processes (hollow: blind)"
    figure.suptitle(title, fontsize=13)
    figure.subplots_adjust(left=0.05, right=0.985, top=0.89, bottom=0.27, wspace=0.2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(number: int, one: dict[str, Any]) -> str:
    case = one["case"]
    worst = max(one["error"].values(), key=abs)
    blind = ", blind" if case["blind"] else ""
    return f"{number}  {case['name']} ({case['model']}, {len(case['machines'])} processes{blind}): {worst:+.0%}"


def _panel(axes: Axes, name: str, title: str, done: Sequence[tuple[int, dict[str, Any]]]) -> None:
    pairs = [(one["measured"][name], one["forecast"]["simulated"][name]) for _, one in done]
    low, high = 0.7 * min(map(min, pairs)), 1.4 * max(map(max, pairs))
    for width, colour, label in BANDS:
        edges = [low, high]
        axes.fill_between(
            edges, [e * (1 - width) for e in edges], [e * (1 + width) for e in edges], color=colour, label=label, lw=0
        )
    axes.plot([low, high], [low, high], color="#888888", lw=0.8)
    for model, colour in COLOURS.items():
        here = [pair for pair, (_, one) in zip(pairs, done, strict=True) if one["case"]["model"] == model]
        blind = [one["case"]["blind"] for _, one in done if one["case"]["model"] == model]
        xs, ys = [x for x, _ in here], [y for _, y in here]
        faces = ["white" if is_blind else colour for is_blind in blind]
        axes.scatter(xs, ys, edgecolors=colour, c=faces, marker=MARKS[model], s=36, label=model, zorder=3)
    for (measured, forecast), (number, _) in zip(pairs, done, strict=True):
        axes.annotate(str(number), (measured, forecast), (5, -9), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="measured", title=title)
    axes.set_ylabel("forecast")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
