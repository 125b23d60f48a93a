"""How a loss fell, step by step, and on texts that were never trained on. Knows nothing of runs or of files."""

from collections.abc import Sequence
from math import isfinite

from muster.draw.palette import KINDS, QUIET, RULE
from muster.draw.sheet import Label, Point, Sheet, Stroke, fit

Curve = Sequence[tuple[int, float]]
"""(step, value), steps rising."""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460.0, 240.0, 34.0, 30.0, 22.0
MAX_POINTS = 800
"""More than a screen has across; a longer curve shows every so manieth step."""


def draw_curve(title: str, losses: Curve, held_out: Curve) -> Sheet:
    """Values that are no numbers are left out."""
    losses, held_out = (_shown(curve) for curve in (losses, held_out))
    sheet = Sheet(WIDTH, HEIGHT)
    sheet.put(Label(0, 8, fit(title, WIDTH, 11, True), 11, bold=True))
    both = [*losses, *held_out]
    if not both:
        return sheet
    steps, values = max(1, max(step for step, _ in both)), [value for _, value in both]
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
    named = (("loss of a step", losses, KINDS["decode"], 1.0), ("held-out texts", held_out, KINDS["prefill"], 1.6))
    for index, (name, curve, colour, width) in enumerate(named):
        if curve:
            sheet.put(Stroke(tuple(point(*one) for one in curve), colour, width, name=name))
            sheet.put(Label(WIDTH, TOP - 8 + 9 * index, name, colour=colour, align="right"))
    return sheet


def _shown(curve: Curve) -> list[tuple[int, float]]:
    finite = [(step, value) for step, value in curve if isfinite(value)]
    every = -(-len(finite) // MAX_POINTS) or 1
    return [one for index, one in enumerate(finite) if index % every == 0 or index == len(finite) - 1]
