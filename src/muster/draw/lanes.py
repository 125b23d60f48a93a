"""The lanes of a timeline, what lies on them, and which part of a run to look at. Knows nothing of drawing."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from muster.draw.palette import KINDS
from muster.draw.words import count, layers, numbers, seconds
from muster.sim.timeline import Span, link_lane, stage_lane
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Node, Pool

MAX_LANES = 64
BARS_OF_A_LANE = 60
"""About as many as can be told apart."""
SOME_MORE = 1.02
"""Of a training step, so that its end can be seen."""


@dataclass(frozen=True, slots=True)
class StageLane:
    """One stage; the stages of a machine that the bars do not tell apart share one."""

    name: str
    held: str
    work: tuple[Span, ...]
    sent: tuple[Span, ...]
    """The bars of the links on which it sends."""


@dataclass(frozen=True, slots=True)
class Group:
    """One pipeline, without the lanes that an earlier one has shown."""

    pipeline: Pipeline
    title: str
    lanes: tuple[StageLane, ...]


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
    nodes = {node.id: node for node in pool.nodes}
    held: dict[str, list[Stage]] = defaultdict(list)
    for stage in _stages(plan):
        held[_lane_of(stage, nodes)].append(stage)
    work, sent = _by_lane(spans, plan, nodes)
    found: list[Group] = []
    seen: set[str] = set()
    for number, pipeline in enumerate(plan.pipelines):
        new = dict.fromkeys(lane for stage in pipeline.stages if (lane := _lane_of(stage, nodes)) not in seen)
        if found and len(seen) + len(new) > MAX_LANES:
            break
        seen.update(new)
        lanes = tuple(_lane(held[key], nodes, work[key], sent[key]) for key in new)
        if lanes:
            found.append(Group(pipeline, _title(number, pipeline, plan), lanes))
    return found


def _stages(plan: Plan) -> Iterator[Stage]:
    return (stage for pipeline in plan.pipelines for stage in pipeline.stages)


def _lane_of(stage: Stage, nodes: Mapping[str, Node]) -> str:
    node = nodes[stage.node]
    return stage_lane(node.name, stage.devices, node.device_count)


def _lane(stages: Sequence[Stage], nodes: Mapping[str, Node], work: Sequence[Span], sent: Sequence[Span]) -> StageLane:
    stage, more = stages[0], len(stages) - 1
    node = nodes[stage.node]
    held = layers(stage.first, stage.last) + (f" + {more} more" if more else "")
    if len(stage.devices) < node.device_count:
        held += f" · dev {numbers(stage.devices)}"
    return StageLane(node.name, held, tuple(work), tuple(sent))


def _title(number: int, pipeline: Pipeline, plan: Plan) -> str:
    if len(plan.pipelines) == 1:
        return ""
    title = f"Pipeline {number + 1}: {count(len(pipeline.stages), 'stage')}"
    if plan.trains:
        return f"{title}, {pipeline.work.num_microbatches} microbatches a step"
    return f"{title}, {count(pipeline.work.num_microbatches, 'step')} in flight"


def _by_lane(
    spans: Iterable[Span], plan: Plan, nodes: Mapping[str, Node]
) -> tuple[defaultdict[str, list[Span]], defaultdict[str, list[Span]]]:
    """What each stage does, and what it sends. Bars that name only a machine are of its first stage."""
    workers: dict[str, str] = {}
    for stage in _stages(plan):
        workers.setdefault(nodes[stage.node].name, _lane_of(stage, nodes))
    workers.update({lane: lane for stage in _stages(plan) for lane in [_lane_of(stage, nodes)]})
    senders = _senders(plan, nodes)
    work: defaultdict[str, list[Span]] = defaultdict(list)
    sent: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.kind in KINDS and span.lane in workers:
            work[workers[span.lane]].append(span)
        elif span.kind in KINDS and (sender := _sender(span.lane, senders, workers)):
            sent[sender].append(span)
    return work, sent


def _senders(plan: Plan, nodes: Mapping[str, Node]) -> dict[str, str]:
    """From the lane of a hop, forth or back, to the lane of the stage that sends on it."""
    found: dict[str, str] = {}
    for pipeline in plan.pipelines:
        for stage, following in zip(pipeline.stages, (*pipeline.stages[1:], pipeline.stages[0]), strict=True):
            if stage is following:
                continue
            here, there = nodes[stage.node].name, nodes[following.node].name
            found.setdefault(link_lane(here, there), _lane_of(stage, nodes))
            found.setdefault(link_lane(there, here), _lane_of(following, nodes))
    return found


def _sender(lane: str, senders: Mapping[str, str], workers: Mapping[str, str]) -> str | None:
    """A name may hold an arrow itself."""
    parts = lane.split(" -> ")
    starts = (" -> ".join(parts[:end]) for end in range(1, len(parts)))
    return senders.get(lane) or next((workers[start] for start in starts if start in workers), None)


def window(plan: Plan, shown: Sequence[Group]) -> Window:
    """One step of training; in serving some rounds of the slowest ring, from when it neither fills nor drains."""
    lanes = [lane for group in shown for lane in group.lanes]
    spans = [span for lane in lanes for span in (*lane.work, *lane.sent)]
    low, high = min((span.start_s for span in spans), default=0.0), max((span.end_s for span in spans), default=1.0)
    if plan.trains:
        end_s = max((_first_update_s(lane) for lane in lanes), default=0.0) or high
        return Window(low, min(high, low + (end_s - low) * SOME_MORE), "one optimizer step")
    ends = [max((span.end_s for lane in group.lanes for span in lane.work), default=high) for group in shown]
    middle_s = (low + min(ends, default=high)) / 2
    rounds = [found for group in shown if (found := _rounds(group, middle_s)) is not None]
    return max(rounds, key=lambda some: some.length_s, default=Window(low, high, "the whole run"))


def _first_update_s(lane: StageLane) -> float:
    """When the first step of the machine ends; 0 where it never does."""
    last = ("optimizer", "exchange")
    ends = ([span.end_s for span in (*lane.work, *lane.sent) if span.kind == kind] for kind in last)
    return next((min(some) for some in ends if some), 0.0)


def _rounds(group: Group, middle_s: float) -> Window | None:
    """None where a run is too short for a whole round."""
    starts = sorted(span.start_s for span in group.lanes[0].work if span.kind == "decode")
    in_flight = max(1, group.pipeline.work.num_microbatches)
    rounds = max(1, min(3, BARS_OF_A_LANE // in_flight))
    last = len(starts) - 1 - rounds * in_flight
    if last < 0:
        return None
    first = min(bisect_left(starts, middle_s), last)
    words = f"{count(rounds, 'round')} of the ring, {seconds(starts[first])} into the run"
    return Window(starts[first], starts[first + rounds * in_flight], words)
