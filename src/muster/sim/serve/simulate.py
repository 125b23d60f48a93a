"""A serving pool event by event: requests come, pipelines work, machines leave. Deterministic.

Beside `serve_forecast`: real batches instead of mean ones, queues, pages that run out, faults. The rules by which steps
are filled are those of the engine (`scheduler.py`). A request goes to the pipeline that is expected to answer it first.

When a machine leaves, its pipeline is gone with all cache. `repair_s` later it is back with a standby in the same
place, or `repair_s` after the machine joins again. What it was at goes to other pipelines at once: prompt and emitted
tokens are computed again, none is lost. A link that stays cut for longer than `repair_s` counts as the loss of the
machine at its end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, inf

from numpy.random import default_rng

from muster.cost.pace import TYPICAL, Constants
from muster.errors import InvalidRequest
from muster.sim.events import Events
from muster.sim.faults import FaultTimeline
from muster.sim.network import Network
from muster.sim.serve.arrivals import Arrival, at_once, poisson
from muster.sim.serve.dispatch import speed_of
from muster.sim.serve.forecast import check
from muster.sim.serve.result import RequestRun, ServeRun, StageRun, mean, steady_rate
from muster.sim.serve.ring import BatchRules, Ring, pages_for
from muster.sim.serve.service import Service
from muster.sim.serve.slots import PipelineSlot
from muster.sim.standbys import REPAIR_S, PlanAnew, Standbys, stays_down
from muster.spec.faults import Fault
from muster.spec.forecast import LinkForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import ServeWorkload

FEWEST_REQUESTS, MAX_REQUESTS, GENERATIONS = 100, 20_000, 5
"""Where nobody says how many: so many times what runs at once, within limits."""


def simulate_serving(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: ServeWorkload,
    *,
    arrivals: Sequence[Arrival] | None = None,
    faults: Sequence[Fault[NodeId]] = (),
    constants: Constants = TYPICAL,
    seed: int = 0,
    num_requests: int | None = None,
    spread: float = 0.0,
    timeline: bool = False,
    repair_s: float = REPAIR_S,
    rules: BatchRules = BatchRules(),
    stage_seconds: Mapping[NodeId, float] | None = None,
    plan_anew: PlanAnew = stays_down,
) -> ServeRun:
    """Until the last request is answered, or nobody is left to answer.

    Without `arrivals`, `num_requests` of the workload's come: Poisson at its rate, or all at once, with lengths within
    `spread` of their means. `stage_seconds` are measured step times by node. A pipeline that lost machines, and for
    whose cuts there are no standbys, goes on as `plan_anew` says, or waits until they are back. Raises as
    `serve_forecast` does, and `InvalidRequest` on faults that cannot be.
    """
    check(workload)
    if not plan.pipelines:
        raise InvalidRequest("The plan has no pipeline; plan again.", "plan")
    if plan.offloads:
        raise InvalidRequest(
            "The plan has stages larger than their devices, whose blocks have a forecast but no simulation; "
            "see it with `muster plan`.",
            "plan",
        )

    def ring_of(index: int, pipeline: Pipeline) -> Ring:
        pipelines = (*plan.pipelines[:index], pipeline, *plan.pipelines[index + 1 :])
        return Ring(replace(plan, pipelines=pipelines), index, pool, shape, constants, rules, stage_seconds)

    rings = [ring_of(index, pipeline) for index, pipeline in enumerate(plan.pipelines)]
    if arrivals is None:
        count = _count(rings, workload) if num_requests is None else num_requests
        arrivals = _drawn(workload, count, seed, spread)
    for ring in rings:
        for arrival in {(a.prompt_tokens, a.output_tokens) for a in arrivals}:
            ring.check_fits(*arrival)
    longest = max((arrival.prompt_tokens + arrival.output_tokens - 1 for arrival in arrivals), default=0)

    def with_room(pipeline: Pipeline, machines: Pool) -> Pipeline | None:
        found = plan_anew(pipeline, machines)
        return found if found and pages_for(longest, found.serve.page_size) <= found.serve.num_pages else None

    fault_timeline = FaultTimeline(faults)
    slots = [PipelineSlot(ring.index, ring, speed_of(ring, workload)) for ring in rings]
    network = Network(Events(), fault_timeline, shows=timeline)
    standbys = Standbys(plan, pool, shape, fault_timeline, repair_s, with_room)
    service = Service(network, slots, standbys, repair_s, ring_of, lambda ring: speed_of(ring, workload))
    service.run(arrivals, workload.concurrency)
    return _result(service, network, pool, workload)


def _count(rings: Sequence[Ring], workload: ServeWorkload) -> int:
    resident = sum(ring.resident(workload.prompt_tokens, workload.output_tokens) for ring in rings)
    return min(MAX_REQUESTS, max(FEWEST_REQUESTS, ceil(GENERATIONS * resident)))


def _drawn(workload: ServeWorkload, count: int, seed: int, spread: float) -> tuple[Arrival, ...]:
    rng, lengths = default_rng(seed), (workload.prompt_tokens, workload.output_tokens)
    if workload.requests_per_s is None:
        return at_once(count, *lengths, rng, spread)
    return poisson(workload.requests_per_s, count, *lengths, rng, spread)


def _result(service: Service, network: Network, pool: Pool, workload: ServeWorkload) -> ServeRun:
    requests = tuple(
        RequestRun(r.arrival.at_s, r.first_s, r.end_s, r.arrival.output_tokens, r.resubmissions)
        for r in service.requests
    )
    finished = [request for request in requests if request.end_s < inf]
    duration_s = max((when_s for when_s, _ in network.tokens), default=0.0)
    runs = [run for slot in service.slots for run in slot.runs]
    within = [request for request in finished if request.request_s <= (workload.deadline_s or inf)]
    return ServeRun(
        tokens_per_s=sum(count for _, count in network.tokens) / duration_s if duration_s else 0.0,
        steady_tokens_per_s=steady_rate(network.tokens),
        time_to_first_token_s=mean([request.time_to_first_token_s for request in finished]),
        seconds_per_token=mean([request.seconds_per_token for request in finished if request.output_tokens > 1]),
        request_s=mean([request.request_s for request in finished]),
        attainment=None if workload.deadline_s is None else len(within) / max(1, len(requests)),
        finished=len(finished),
        unfinished=len(requests) - len(finished),
        duration_s=duration_s,
        preemptions=sum(run.head.preemptions for run in runs),
        resubmissions=sum(request.resubmissions for request in requests),
        swapped_pages=round(sum(run.swapped_pages for run in runs)),
        peak_pages=tuple(max(run.head.peak_pages for run in slot.runs) for slot in service.slots),
        stages=_stages(service.slots, duration_s),
        links=_links(network, pool, duration_s),
        requests=requests,
        spans=tuple(sorted((s for run in runs for s in run.spans), key=lambda s: (s.start_s, s.lane))),
        events=network.events.count,
    )


def _stages(slots: Sequence[PipelineSlot], duration_s: float) -> tuple[StageRun, ...]:
    """In order of pipelines and stages; a machine that stepped in comes after the one it replaced."""
    found: dict[tuple[int, int, NodeId], tuple[float, int]] = {}
    for slot in slots:
        for run in slot.runs:
            for j, (stage, busy_s) in enumerate(zip(run.ring.stages, run.busy_s, strict=True)):
                before_s, steps = found.get((slot.index, j, stage.node), (0.0, 0))
                found[slot.index, j, stage.node] = before_s + busy_s, steps + run.steps
    return tuple(
        StageRun(index, node, busy_s / duration_s if duration_s else 0.0, busy_s / max(1, steps))
        for (index, _, node), (busy_s, steps) in sorted(found.items(), key=lambda entry: entry[0][:2])
    )


def _links(network: Network, pool: Pool, duration_s: float) -> tuple[LinkForecast, ...]:
    if not duration_s:
        return ()
    return tuple(
        LinkForecast(
            *pair, wire.sent_bytes / duration_s, wire.sent_bytes / duration_s / pool.link(*pair).bandwidth_bytes_per_s
        )
        for pair, wire in network.wires.items()
        if pair[0] != pair[1]
    )
