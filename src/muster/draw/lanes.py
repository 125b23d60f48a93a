"""The lanes of a timeline, what lies on them, and which part of a run to look at. Knows nothing of drawing."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muster.draw.facts import Forecast
from muster.draw.palette import KINDS
from muster.draw.words import count, layers, seconds
from muster.sim.timeline import Span
from muster.spec.forecast import TrainForecast
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool

MOST_LANES = 64
BARS_OF_A_LANE = 60
"""About as many as can be told apart."""
SOME_MORE = 1.02
"""Of a training step, so that its end can be seen."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One machine."""

    name: str
    held: str
    work: tuple[Span, ...]
    sent: tuple[Span, ...]
    """What it sends; the bars of its links to others."""


@dataclass(frozen=True, slots=True)
class Group:
    """One pipeline, without the machines that an earlier one has shown."""

    pipeline: Pipeline
    title: str
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Window:
    start_s: float
    end_s: float
    words: str

    @property
    def length_s(self) -> float:
        return max(self.end_s - self.start_s, 1e-12)

    def inside(self, span: Span) -> bool:
        return span.end_s > self.start_s and span.start_s < self.end_s


def groups(plan: Plan, pool: Pool, spans: Iterable[Span]) -> list[Group]:
    """In the order of stages, as many whole pipelines as there is room for, at least one."""
    names = {node.id: node.name for node in pool.nodes}
    held = _held(plan, names)
    work, sent = _by_machine(spans, set(held))
    found: list[Group] = []
    seen: set[str] = set()
    for number, pipeline in enumerate(plan.pipelines):
        new = dict.fromkeys(names[node] for node in pipeline.nodes() if names[node] not in seen)
        if found and len(seen) + len(new) > MOST_LANES:
            break
        seen.update(new)
        lanes = tuple(Lane(name, held[name], tuple(work[name]), tuple(sent[name])) for name in new)
        if lanes:
            found.append(Group(pipeline, _title(number, pipeline, plan), lanes))
    return found


def _held(plan: Plan, names: dict[str, str]) -> dict[str, str]:
    parts: dict[str, list[str]] = defaultdict(list)
    for number, pipeline in enumerate(plan.pipelines):
        for stage in pipeline.stages:
            which = f"P{number + 1} · " if len(plan.pipelines) > 1 else ""
            parts[names[stage.node]].append(which + layers(stage.first, stage.last))
    return {name: said[0] + (f" + {len(said) - 1} more" if said[1:] else "") for name, said in parts.items()}


def _title(number: int, pipeline: Pipeline, plan: Plan) -> str:
    if len(plan.pipelines) == 1:
        return ""
    title = f"Pipeline {number + 1}: {count(len(pipeline.stages), 'stage')}"
    if plan.purpose == "train":
        return f"{title}, {pipeline.num_microbatches} microbatches a step"
    return f"{title}, {count(pipeline.num_microbatches, 'step')} in flight"


def _by_machine(
    spans: Iterable[Span], machines: set[str]
) -> tuple[defaultdict[str, list[Span]], defaultdict[str, list[Span]]]:
    """What each one does, and what it sends."""
    work: defaultdict[str, list[Span]] = defaultdict(list)
    sent: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.kind not in KINDS:
            continue
        if span.lane in machines:
            work[span.lane].append(span)
        elif (sender := _sender(span.lane, machines)) is not None:
            sent[sender].append(span)
    return work, sent


def _sender(lane: str, machines: set[str]) -> str | None:
    parts = lane.split(" -> ")
    starts = (" -> ".join(parts[:end]) for end in range(1, len(parts)))
    return next((start for start in starts if start in machines), None)


def window(plan: Plan, forecast: Forecast, shown: Sequence[Group]) -> Window:
    """One step of training; in serving some rounds of the slowest ring, from when it neither fills nor drains."""
    spans = [span for group in shown for lane in group.lanes for span in (*lane.work, *lane.sent)]
    low, high = min((span.start_s for span in spans), default=0.0), max((span.end_s for span in spans), default=1.0)
    if plan.purpose == "train":
        step_s = forecast.step_s if isinstance(forecast, TrainForecast) else high - low
        return Window(low, min(high, low + step_s * SOME_MORE), "one optimizer step")
    ends = [max((span.end_s for lane in group.lanes for span in lane.work), default=high) for group in shown]
    middle_s = (low + min(ends, default=high)) / 2
    rounds = [found for group in shown if (found := _rounds(group, middle_s)) is not None]
    return max(rounds, key=lambda some: some.length_s, default=Window(low, high, "the whole run"))


def _rounds(group: Group, middle_s: float) -> Window | None:
    """None where a run is too short for a whole round."""
    starts = sorted(span.start_s for span in group.lanes[0].work if span.kind == "decode")
    in_flight = max(1, group.pipeline.num_microbatches)
    rounds = max(1, min(3, BARS_OF_A_LANE // in_flight))
    last = len(starts) - 1 - rounds * in_flight
    if last < 0:
        return None
    first = min(bisect_left(starts, middle_s), last)
    words = f"{count(rounds, 'round')} of the ring, {seconds(starts[first])} into the run"
    return Window(starts[first], starts[first + rounds * in_flight], words)
