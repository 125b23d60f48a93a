"""One optimizer step of all pipelines, event by event. Knows no faults but slow machines and cut links.

A stage computes in the order of its schedule and waits where something has not come yet. Messages between two machines
share one wire in each direction. When the j-th stages of all pipelines are done they exchange gradients, and update.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from muster.sim.network import Network, Wire
from muster.sim.timeline import Span, SpanKind, link_lane, stage_lane
from muster.sim.train.pipeline_costs import PipelineCosts, TrainHop
from muster.sim.train.schedules import MicrobatchPass, order
from muster.spec.workload import TrainWorkload


@dataclass(slots=True)
class _Stage:
    """Of one pipeline."""

    lane: str
    todo: list[MicrobatchPass]
    next: int = 0
    ready: set[MicrobatchPass] = field(default_factory=set)
    works: bool = False
    busy_s: float = 0.0
    in_flight: int = 0
    """Chunks of microbatches that went forward and are not back."""
    most_in_flight: int = 0
    done_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepRun:
    """What one step did; times from the start of the simulation."""

    start_s: float
    pipeline_end_s: float
    """The last microbatch is back everywhere."""
    end_s: float
    """Infinite where a link is cut for good."""
    busy_s: dict[tuple[int, int], float]
    """(pipeline, stage) -> seconds computing."""
    in_flight: dict[tuple[int, int], int]
    """Most microbatches (interleaved: chunks of them) whose activations the stage held at once."""
    spans: list[Span]


class TrainStep:
    def __init__(
        self,
        pipelines: Sequence[PipelineCosts],
        exchanges: Sequence[float],
        workload: TrainWorkload,
        chunks: int,
        network: Network,
    ) -> None:
        """`exchanges` are seconds by stage. `network.events` stands at the moment when the step starts."""
        self._pipelines, self._exchanges, self._network = pipelines, exchanges, network
        self._chunks = chunks if workload.schedule == "interleaved" else 1
        self._stages = [self._line_up(costs, workload) for costs in pipelines]
        self._missing = [len(pipelines)] * len(exchanges)
        self._start_s = self._end_s = network.events.now_s
        self._spans: list[Span] = []

    def _line_up(self, costs: PipelineCosts, workload: TrainWorkload) -> list[_Stage]:
        count = len(costs.stages)
        stages = [
            _Stage(
                stage_lane(node.name, stage.devices, node.device_count),
                order(workload, j, count, costs.microbatches, self._chunks),
            )
            for j, (stage, node) in enumerate(zip(costs.stages, costs.nodes, strict=True))
        ]
        stages[0].ready.update(MicrobatchPass("forward", 0, k) for k in range(costs.microbatches))
        return stages

    def run(self) -> StepRun:
        for pipeline in range(len(self._pipelines)):
            self._go(pipeline, 0)
        self._network.events.run()
        return StepRun(
            start_s=self._start_s,
            pipeline_end_s=max(stage.done_s for stages in self._stages for stage in stages),
            end_s=inf if any(self._missing) else self._end_s,
            busy_s=self._of_each("busy_s"),
            in_flight=self._of_each("most_in_flight"),
            spans=self._spans,
        )

    def _of_each(self, name: str) -> dict[tuple[int, int], Any]:
        return {(i, j): getattr(stage, name) for i, stages in enumerate(self._stages) for j, stage in enumerate(stages)}

    # --- computing --------------------------------------------------------------------------------------------------

    def _go(self, pipeline: int, index: int) -> None:
        """Let an idle stage start its next work, if what it needs is there."""
        stage, costs, now_s = self._stages[pipeline][index], self._pipelines[pipeline], self._network.events.now_s
        if stage.works or stage.next == len(stage.todo) or stage.todo[stage.next] not in stage.ready:
            return
        work = stage.todo[stage.next]
        stage.ready.remove(work)
        stage.next += 1
        stage.works = True
        if work.kind == "forward":
            stage.in_flight += 1
            stage.most_in_flight = max(stage.most_in_flight, stage.in_flight)
        whole_s = costs.forward_s[index] if work.kind == "forward" else costs.backward_s[index]
        seconds = whole_s / self._chunks / self._network.faults.speed(costs.nodes[index].id, now_s)
        self._network.events.at(now_s + seconds, self._done, pipeline, index, work, now_s)

    def _done(self, pipeline: int, index: int, work: MicrobatchPass, start_s: float) -> None:
        stage, now_s = self._stages[pipeline][index], self._network.events.now_s
        stage.works = False
        stage.busy_s += now_s - start_s
        if work.kind == "backward":
            stage.in_flight -= 1
        self._show(stage.lane, start_s, now_s, work.kind, f"microbatch {work.microbatch + 1}")
        self._pass_on(pipeline, index, work)
        if stage.next == len(stage.todo) and not stage.works:
            stage.done_s = now_s
            self._missing[index] -= 1
            if not self._missing[index]:
                self._exchange(index)
        self._go(pipeline, index)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _pass_on(self, pipeline: int, index: int, work: MicrobatchPass) -> None:
        """To whoever computes this microbatch next; after chunk c of the last stage comes chunk c + 1 of the first."""
        costs, last = self._pipelines[pipeline], len(self._pipelines[pipeline].stages) - 1
        if work.kind == "forward":
            if index < last:
                self._send(costs.hops[index], False, pipeline, index + 1, work)
            elif work.chunk + 1 < self._chunks:
                self._send(costs.wrap, False, pipeline, 0, work._replace(chunk=work.chunk + 1))
            else:
                self._arrive(pipeline, index, work._replace(kind="backward"))
        elif index > 0:
            self._send(costs.hops[index - 1], True, pipeline, index - 1, work)
        elif work.chunk > 0:
            self._send(costs.wrap, True, pipeline, last, work._replace(chunk=work.chunk - 1))

    def _send(self, hop: TrainHop | None, is_back: bool, pipeline: int, index: int, work: MicrobatchPass) -> None:
        if hop is None:
            self._arrive(pipeline, index, work)
            return
        source, target = (hop.target, hop.source) if is_back else (hop.source, hop.target)
        link, nbytes = (hop.back, hop.back_bytes) if is_back else (hop.forth, hop.forth_bytes)
        wire = self._network.wires.setdefault((source.id, target.id), Wire())
        ready_s = max(self._network.events.now_s, wire.free_s)
        start_s = self._network.faults.passable_s(source.id, target.id, ready_s)
        wire.free_s = end_s = start_s + nbytes / link.bandwidth_bytes_per_s
        wire.sent_bytes += nbytes
        self._show(link_lane(source.name, target.name), start_s, end_s, "send", f"microbatch {work.microbatch + 1}")
        self._network.events.at(end_s + link.latency_s, self._arrive, pipeline, index, work)

    def _arrive(self, pipeline: int, index: int, work: MicrobatchPass) -> None:
        self._stages[pipeline][index].ready.add(work)
        self._go(pipeline, index)

    # --- after the last microbatch ----------------------------------------------------------------------------------

    def _exchange(self, index: int) -> None:
        """All who hold stage `index` are done: sum the gradients, then everybody updates its weights."""
        now_s = self._network.events.now_s
        summed_s = now_s + self._exchanges[index]
        for costs, stages in zip(self._pipelines, self._stages, strict=True):
            updated_s = summed_s + costs.optimizer_s[index] / self._network.faults.speed(
                costs.nodes[index].id, summed_s
            )
            self._end_s = max(self._end_s, updated_s)
            if self._exchanges[index] > 0:
                self._show(stages[index].lane, now_s, summed_s, "exchange", f"stage {index + 1}")
            self._show(stages[index].lane, summed_s, updated_s, "optimizer", f"stage {index + 1}")

    def _show(self, lane: str, start_s: float, end_s: float, kind: SpanKind, label: str) -> None:
        if self._network.shows:
            self._spans.append(Span(lane, start_s, end_s, kind, label))
