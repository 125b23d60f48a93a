"""What the colours mean, as far as they occur in the picture. Knows nothing of why something has its colour."""

from collections.abc import Sequence

from muster.draw.facts import Forecast
from muster.draw.palette import CACHE, IDLE, KINDS, LOAD_UNKNOWN, LOADS, OTHER, QUIET, WEIGHTS, load_width
from muster.draw.sheet import Bars, Box, Label, Mark, Sheet, Stroke, text_width
from muster.draw.words import between, percent
from muster.spec.plan import Plan

SIZE = 6.5


def map_legend(plan: Plan, forecast: Forecast, marks: Sequence[Mark]) -> Sheet:
    kept = "activations" if plan.trains else "cache"
    rest = "gradients, optimizer and the rest" if plan.trains else "workspace"
    fills = {mark.fill for mark in marks if isinstance(mark, Box)}
    lines = {mark.colour for mark in marks if isinstance(mark, Stroke)}
    memory = [(WEIGHTS, "weights"), (CACHE, kept), (OTHER, rest)]
    entries: list[tuple[Mark, str]] = [(Box(0, 2, 12, 5, colour), text) for colour, text in memory if colour in fills]
    rows = [("memory", entries)] if entries else []
    unknown = "gradients only" if forecast and plan.trains else "load not known"
    if lines:
        rows.append(("link load", [entry for entry in _loads(unknown) if entry[0].colour in lines]))
    return _rows(rows)


def _loads(unknown: str) -> list[tuple[Stroke, str]]:
    low = 0.0
    entries = []
    for limit, colour in LOADS:
        words = f"{percent(low)} and more" if limit > 1 else f"below {percent(limit)}" if not low else ""
        words = words or between(low, limit)
        entries.append((Stroke(((0, 4.5), (14, 4.5)), colour, load_width(low)), words))
        low = limit
    return [*entries, (Stroke(((0, 4.5), (14, 4.5)), LOAD_UNKNOWN, load_width(None)), unknown)]


def timeline_legend(marks: Sequence[Mark]) -> Sheet:
    kinds = {mark.name.removeprefix("bars-") for mark in marks if isinstance(mark, Bars)}
    entries: list[tuple[Mark, str]] = [(Box(0, 1, 12, 7, KINDS[kind]), kind) for kind in KINDS if kind in kinds]
    return _rows([("", [*entries, (Box(0, 1, 12, 7, IDLE), "idle")])])


def _rows(rows: Sequence[tuple[str, Sequence[tuple[Mark, str]]]]) -> Sheet:
    """All in one line."""
    sheet = Sheet(height=10)
    for title, entries in rows:
        if title:
            sheet.put(Label(sheet.width, 4.5, title, SIZE, QUIET, bold=True))
            sheet.width += text_width(title, SIZE, True) + 8
        for mark, words in entries:
            part = Sheet(marks=[mark, Label(17, 4.5, words, SIZE, QUIET)])
            sheet.paste(part, sheet.width, 0)
            sheet.width += 17 + text_width(words, SIZE) + 12
        sheet.width += 10
    return sheet
