"""How a loss fell, step by step, and on texts that were never trained on. Knows nothing of runs or of files."""

from collections.abc import Mapping, Sequence
from math import isfinite

from muster.draw.palette import KINDS, QUIET, RULE
from muster.draw.sheet import Label, Point, Sheet, Stroke, fit

Curve = Sequence[tuple[int, float]]
"""(step, value), steps rising."""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460.0, 240.0, 34.0, 30.0, 22.0
MAX_POINTS = 800
"""More than a screen has across; a longer curve shows every so manieth step."""


COLOURS = ("#1b6ca8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d868e")
"""Of curves that are compared, round and round (Okabe and Ito, 2008)."""


def draw_curve(title: str, losses: Curve, held_out: Curve) -> Sheet:
    """Of one run. Values that are no numbers are left out."""
    named = (("loss of a step", losses, KINDS["decode"], 1.0), ("held-out texts", held_out, KINDS["prefill"], 1.6))
    return _drawn(title, named)


def draw_curves(title: str, curves: Mapping[str, Curve]) -> Sheet:
    """Of several runs, by name. Values that are no numbers are left out."""
    return _drawn(
        title, [(name, curve, COLOURS[index % len(COLOURS)], 1.4) for index, (name, curve) in enumerate(curves.items())]
    )


def _drawn(title: str, named: Sequence[tuple[str, Curve, str, float]]) -> Sheet:
    """Name, curve, colour and width of each."""
    named = [(name, _shown(curve), colour, width) for name, curve, colour, width in named]
    sheet = Sheet(WIDTH, HEIGHT)
    sheet.put(Label(0, 8, fit(title, WIDTH, 11, True), 11, bold=True))
    every = [point for _, curve, _, _ in named for point in curve]
    if not every:
        return sheet
    steps, values = max(1, max(step for step, _ in every)), [value for _, value in every]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0

    def point(step: int, value: float) -> Point:
        across, up = step / steps, (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    for share in (0.0, 0.5, 1.0):
        value, step = low + share * (high - low), round(share * steps)
        y = point(0, value)[1]
        sheet.put(Stroke(((LEFT, y), (WIDTH, y)), RULE), Label(LEFT - 4, y, f"{value:.3g}", align="right"))
        align = ("left", "center", "right")[round(2 * share)]
        sheet.put(Label(point(step, low)[0], HEIGHT - 8, f"{step:,}", colour=QUIET, align=align))  # type: ignore[arg-type]
    for index, (name, curve, colour, width) in enumerate(named):
        if curve:
            sheet.put(Stroke(tuple(point(*one) for one in curve), colour, width, name=name))
            sheet.put(Label(WIDTH, TOP - 8 + 9 * index, name, colour=colour, align="right"))
    return sheet


def _shown(curve: Curve) -> list[tuple[int, float]]:
    finite = [(step, value) for step, value in curve if isfinite(value)]
    every = -(-len(finite) // MAX_POINTS) or 1
    return [one for index, one in enumerate(finite) if index % every == 0 or index == len(finite) - 1]
