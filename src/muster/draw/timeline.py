"""The timeline: what every stage does when, a few rounds of the ring or one training step. Knows nothing of files.

pipeline 1   machine-a  layers 0–9    ██ ██ ██ ██      a lane per machine, in the order of its stages
             machine-b  layers 10–19   ▄█▄██▄██▄██     thin, below: what it sends meanwhile
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10
from statistics import median

from muster.draw.lanes import Group, StageLane, Window, groups, window
from muster.draw.palette import IDLE, KINDS, QUIET, RULE, ink_on
from muster.draw.sheet import Bars, Box, Label, Mark, Sheet, Stroke, fit, text_width
from muster.draw.words import percent
from muster.sim.timeline import Span
from muster.spec.plan import Plan
from muster.spec.pool import Pool

MAX_NAME_WIDTH, BUSY_WIDTH = 100.0, 28.0
MAX_NUMBERED_LANES = 24
MAX_DIGITS = 3
"""Of a number in a bar; the ten thousandth step tells nobody anything."""
TALL, LOW = 15.0, 10.0
WORDS_SIZE, NUMBER_SIZE = 6.2, 5.2


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where the seconds of a window lie between two points of the sheet."""

    window: Window
    left: float
    right: float

    @property
    def points_per_s(self) -> float:
        return (self.right - self.left) / self.window.length_s

    def x(self, at_s: float) -> float:
        inside = min(max(at_s, self.window.start_s), self.window.end_s)
        return self.left + (inside - self.window.start_s) * self.points_per_s


def draw_timeline(plan: Plan, pool: Pool, spans: Sequence[Span], width: float) -> Sheet:
    """`width` points. Spans on lanes that are no machine of the plan are not shown."""
    shown = groups(plan, pool, spans)
    part = window(plan, shown)
    lanes = [lane for group in shown for lane in group.lanes]
    sheet = _titled(plan, shown, part, width)
    names, held = (_column([getattr(lane, column) for lane in lanes]) for column in ("name", "held"))
    scale = _Scale(part, names + held, width - BUSY_WIDTH)
    bars, bands = Sheet(width, sheet.height), []
    for group in shown:
        if group.title:
            sheet.put(Label(0, bars.height + 7, group.title, WORDS_SIZE, bold=True))
            bars.height += 13
        top = bars.height
        for lane in group.lanes:
            _lane(sheet, bars, lane, scale, names, len(lanes))
        bands.append((top, bars.height))
    sheet.height = bars.height
    _axis(sheet, scale, bands)
    sheet.put(*bars.marks)
    return sheet


def _titled(plan: Plan, shown: Sequence[Group], part: Window, width: float) -> Sheet:
    sheet = Sheet(width, 18)
    lanes = sum(len(group.lanes) for group in shown)
    hidden = {stage.node for pipeline in plan.pipelines for stage in pipeline.stages}
    cut = f", the first {len(shown)} of {len(plan.pipelines)} pipelines" if len(hidden) > lanes else ""
    sheet.put(Label(0, 6, "Timeline", 9, bold=True), Label(54, 6.5, part.words + cut, 7, QUIET))
    sheet.put(Label(width, 13, "busy", WORDS_SIZE, QUIET, "right"))
    return sheet


def _column(texts: Iterable[str]) -> float:
    return min(MAX_NAME_WIDTH, max(text_width(text, WORDS_SIZE) for text in texts)) + 8


def _lane(sheet: Sheet, bars: Sheet, lane: StageLane, scale: _Scale, held_x: float, num_lanes: int) -> None:
    """Words and the light band of idle time on `sheet`, what lies on it on `bars`."""
    work = [span for span in lane.work if scale.window.inside(span)]
    sent = [span for span in lane.sent if scale.window.inside(span)]
    depth, _ = _tracks(work)
    height = (TALL if num_lanes <= MAX_NUMBERED_LANES else LOW) * (1 + 0.6 * (depth - 1))
    y, middle, split = bars.height, bars.height + height / 2, bars.height + height * 0.7
    sheet.put(Label(0, middle, fit(lane.name, held_x - 6, WORDS_SIZE), WORDS_SIZE))
    sheet.put(Label(held_x, middle, fit(lane.held, scale.left - held_x - 6, WORDS_SIZE), WORDS_SIZE, QUIET))
    sheet.put(Box(scale.left, y + 1, scale.right - scale.left, height - 2, IDLE))
    bars.put(*_bars(work, scale, y + 1, split - 0.5), *_bars(sent, scale, split, y + height - 1))
    if num_lanes <= MAX_NUMBERED_LANES and depth == 1:
        bars.put(*_numbers(work, scale, (y + 0.5 + split) / 2))
    working = [span for span in work if span.kind != "exchange"]
    share = sum(end - start for start, end in _union(working, scale.window)) / scale.window.length_s
    bars.put(Label(sheet.width, middle, percent(share), WORDS_SIZE, QUIET, "right"))
    bars.height += height


def _bars(spans: Sequence[Span], scale: _Scale, top: float, bottom: float) -> list[Mark]:
    """One mark for each kind. Bars that overlap lie above each other; those too thin to be told apart become one."""
    depth, tracks = _tracks(spans)
    step = (bottom - top) / depth
    boxes: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for span, track in sorted(zip(spans, tracks, strict=True), key=lambda pair: (pair[1], pair[0].start_s)):
        x0, x1, y = scale.x(span.start_s), scale.x(span.end_s), top + step * track
        some = boxes[span.kind]
        if some and some[-1][1] == y and x1 - x0 < 1 and x0 - (some[-1][0] + some[-1][2]) < 0.25:
            some[-1] = (some[-1][0], y, x1 - some[-1][0], step)
        else:
            some.append(
                (x0, y, max(0.3, x1 - x0 - (0.6 if x1 - x0 > 2.5 else 0.0)), step - (0.4 if depth > 1 else 0.0))
            )
    return [Bars(tuple(some), KINDS[kind], name=f"bars-{kind}") for kind, some in boxes.items()]


def _tracks(spans: Sequence[Span]) -> tuple[int, list[int]]:
    """How many tracks, and which one each span lies on, so that none overlap."""
    ends: list[float] = []
    tracks = [0] * len(spans)
    for index in sorted(range(len(spans)), key=lambda index: spans[index].start_s):
        slack = 1e-9 * max(1.0, abs(spans[index].start_s))
        track = next((track for track, end in enumerate(ends) if end <= spans[index].start_s + slack), len(ends))
        ends[track : track + 1] = [spans[index].end_s]
        tracks[index] = track
    return max(1, len(ends)), tracks


def _numbers(spans: Sequence[Span], scale: _Scale, y: float) -> list[Mark]:
    """The number of the microbatch in each bar; none in bars of a kind that are mostly too short for theirs."""
    found: dict[str, list[tuple[Span, str, float]]] = defaultdict(list)
    for span in spans:
        text = span.label.rpartition(" ")[2]
        if text.isdigit() and len(text) <= MAX_DIGITS:
            found[span.kind].append((span, text, scale.x(span.end_s) - scale.x(span.start_s)))
    return [mark for kind, some in found.items() for mark in _numbers_of(kind, some, scale, y)]


def _numbers_of(kind: str, some: Sequence[tuple[Span, str, float]], scale: _Scale, y: float) -> list[Mark]:
    if max(text_width(text, NUMBER_SIZE) for _, text, _ in some) + 1.5 > median(room for _, _, room in some):
        return []
    return [
        Label((scale.x(span.start_s) + scale.x(span.end_s)) / 2, y, text, NUMBER_SIZE, ink_on(kind), "center")
        for span, text, room in some
        if text_width(text, NUMBER_SIZE) + 1.5 <= room
    ]


def _union(spans: Sequence[Span], part: Window) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda span: span.start_s):
        start, end = max(span.start_s, part.start_s), min(span.end_s, part.end_s)
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _axis(sheet: Sheet, scale: _Scale, bands: Iterable[tuple[float, float]]) -> None:
    """Lines behind the bars of each band, and their times below, from the start of the window."""
    length = scale.window.length_s
    step = _nice(length / 8)
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, size = next((pair for pair in units if length >= pair[1]), units[-1])
    for index in range(floor(length / step + 1e-6) + 1):
        x = scale.left + step * index * scale.points_per_s
        words = f"{step * index / size:.6g} {unit}" if index else "0"
        sheet.put(*(Stroke(((x, top), (x, bottom)), RULE, 0.5) for top, bottom in bands))
        sheet.put(Label(x, sheet.height + 8, words, WORDS_SIZE, QUIET, "center"))
    sheet.height += 15


def _nice(rough: float) -> float:
    """The next of 1, 2, 5, 10, 20 … that is no less."""
    power = 10.0 ** floor(log10(max(rough, 1e-12)))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough * (1 - 1e-9))
