"""The pool as people see it: plain records for the status page and the command line. Decides nothing.

What stands at the top of the status is of all pipelines together, in the order of their jobs; under `jobs` it stands
for each. While one pipeline serves both say the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from muster.broker.members.membership import Member
from muster.broker.pipelines.codec_checks import CodecCheck
from muster.broker.pipelines.lifecycle import Lifecycle
from muster.broker.pipelines.placement import Placement
from muster.broker.state import BrokerState
from muster.spec.plan import PrivateSettings, ServeSettings, WorkSettings
from muster.spec.pool import NodeId

View = dict[str, Any]
PIN_DUE = "It is here, and gets its layers when the pool next looks for something better."


def status_view(state: BrokerState, measured: Mapping[int, Mapping[str, float]] = {}) -> View:
    """What works, what loads, who is here, and what is wrong where nothing works.

    `measured` is what the door sees of each pipeline, by its epoch.
    """
    pipelines = state.pipelines
    jobs = [_job(state, job, measured) for job in pipelines.jobs if job not in state.guests.jobs]
    serving = [placement for placement in pipelines.serving() if placement.id.job not in state.guests.jobs]
    return {
        "model": ", ".join(job["model"] for job in jobs),
        "ready": all(job["ready"] for job in jobs),
        "reason": next((job["reason"] for job in jobs if job["reason"]), ""),
        "epoch": max((placement.epoch for placement in serving), default=0),
        "active_requests": sum(member.active_requests for member in state.members),
        "placement": [stage for placement in serving for stage in _stages(state, placement)],
        "explanation": "\n".join(placement.explanation for placement in serving),
        "codecs": [link for placement in serving for link in _codecs(state, placement)],
        "codec_checks": [check for job in jobs for pipeline in job["pipelines"] for check in pipeline["codec_checks"]],
        "max_context": max((max_context(state, job["job"]) for job in jobs), default=0),
        "loading": [load for placement in pipelines.pending() for load in _loading(state, placement)],
        "jobs": jobs,
        "private_sessions": [_job(state, job, measured) for job in pipelines.jobs if job in state.guests.jobs],
        "nodes": [],
    }


def _job(state: BrokerState, name: str, measured: Mapping[int, Mapping[str, float]]) -> View:
    lifecycles = state.pipelines.of_job(name)
    ready = any(lifecycle.serving is not None for lifecycle in lifecycles)
    reasons = [_reason(lifecycle) for lifecycle in lifecycles if lifecycle.serving is None]
    return {
        "job": name,
        "model": state.pipelines.jobs[name].model.shape.name,
        "ready": ready,
        "reason": "" if ready else next(iter(reasons), ""),
        "max_context": max_context(state, name),
        "pipelines": [_pipeline(state, lifecycle, measured) for lifecycle in lifecycles],
    }


def _pipeline(state: BrokerState, lifecycle: Lifecycle, measured: Mapping[int, Mapping[str, float]]) -> View:
    serving, pending = lifecycle.serving, lifecycle.pending
    return {
        "pipeline": str(lifecycle.id),
        "reason": _reason(lifecycle) if serving is None else "",
        "epoch": serving.epoch if serving is not None else 0,
        "placement": _stages(state, serving) if serving is not None else [],
        "forecast": asdict(serving.capacity) if serving is not None else None,
        "measured": dict(measured.get(serving.epoch, {})) if serving is not None else {},
        "in_flight": _in_flight(state, serving) if serving is not None else 0,
        "work": _work(serving.pipeline.work) if serving is not None else None,
        "guesses": _guesses(state, serving) if serving is not None else None,
        "explanation": serving.explanation if serving is not None else "",
        "codecs": _codecs(state, serving) if serving is not None else [],
        "codec_checks": [_codec_check(check) for check in lifecycle.codec_checks.made],
        "loading": _loading(state, pending) if pending is not None else [],
    }


def _in_flight(state: BrokerState, serving: Placement) -> int:
    """Steps that its first stage keeps in flight, as that says; 0 until it has."""
    first = state.members.members.get(serving.pipeline.stages[0].node)
    return 0 if first is None else first.in_flight.get(serving.epoch, 0)


def _codecs(state: BrokerState, serving: Placement) -> list[View]:
    """Of the links that do not carry raw values."""
    members = state.members.members
    return [
        {"source": members[link.source].name, "target": members[link.target].name, "codec": link.codec.name}
        for link in serving.pipeline.codecs
    ]


def _codec_check(check: CodecCheck) -> View:
    return {
        "codecs": [codec.name for codec in check.codecs],
        "passed": check.passed,
        "positions": check.found.positions if check.found is not None else 0,
        "agreement": check.agreement,
        "divergence": check.found.divergence if check.found is not None else None,
    }


def _work(work: WorkSettings) -> View:
    """How full a pipeline that serves may be run; what one that trains computes in a step."""
    if isinstance(work, ServeSettings):
        return {
            "num_pages": work.num_pages,
            "page_size": work.page_size,
            "num_microbatches": work.num_microbatches,
        }
    if isinstance(work, PrivateSettings):
        return {"roles": sum(map(len, work.roles)), "owners": len(set(work.owners)), "max_tokens": work.max_tokens}
    return {"num_microbatches": work.num_microbatches, "microbatch": work.microbatch}


def _guesses(state: BrokerState, serving: Placement) -> View | None:
    """None while nothing has been generated."""
    counts = state.members.members[serving.pipeline.stages[0].node].guesses.get(serving.epoch)
    if counts is None or not counts.passes:
        return None
    return {**asdict(counts), "tokens_per_pass": round(counts.tokens_per_pass, 3)}


def _reason(lifecycle: Lifecycle) -> str:
    if lifecycle.pending is not None:
        waits = "Machines are loading their layers."
        pending = lifecycle.pending
        return f"{waits} {pending.explanation}" if pending.pipeline.offloads else waits
    return lifecycle.trouble or "The pool is being arranged."


def max_context(state: BrokerState, job: str) -> int:
    """Longest sequence that some pipeline of the job has cache for; 0 while none is ready."""
    works = [lifecycle.serving.pipeline.work for lifecycle in state.pipelines.of_job(job) if lifecycle.serving]
    most = max((work.cache_tokens for work in works), default=0)
    return min(state.pipelines.jobs[job].model.shape.max_context, most)


def _stages(state: BrokerState, serving: Placement) -> list[View]:
    members = state.members.members
    return [
        {
            "node": stage.node,
            "name": members[stage.node].name,
            "region": members[stage.node].region,
            "first": stage.first,
            "last": stage.last,
        }
        for stage in serving.pipeline.stages
    ]


def _loading(state: BrokerState, pending: Placement) -> list[View]:
    return [
        {
            "node": node,
            "name": state.members.members[node].name,
            "done_bytes": load.done_bytes,
            "total_bytes": load.total_bytes,
            "loaded": load.loaded,
        }
        for node, load in pending.loads.items()
    ]


def pins_view(state: BrokerState, now_s: float) -> list[View]:
    """What became of every pin; `reason` says why it is not kept."""
    return [view for lifecycle in state.pipelines for view in _pins(lifecycle, now_s)]


def _pins(lifecycle: Lifecycle, now_s: float) -> list[View]:
    stages = lifecycle.serving.pipeline.stages if lifecycle.serving is not None else ()
    views = []
    for one in lifecycle.pinned(now_s):
        kept = one.stage is not None and one.stage in stages
        reason = "" if kept else one.trouble or lifecycle.pin_trouble or PIN_DUE
        views.append(
            {"node": one.pin.node, "first": one.pin.first, "last": one.pin.last, "kept": kept, "reason": reason}
        )
    return views


def nodes_view(state: BrokerState, past: Iterable[Mapping[str, Any]], now_s: float, wall_s: float) -> list[View]:
    """Everybody who is here, then everybody who was (`past`: the store's records). `wall_s` is since the Unix epoch."""
    here = [_member(state, member, now_s) for member in state.members]
    present = set(state.members.members)
    gone = [_gone(state, record, wall_s) for record in past if record["id"] not in present]
    return [*here, *gone]


def _member(state: BrokerState, member: Member, now_s: float) -> View:
    held = [
        (placement, stage)
        for placement in state.pipelines.serving()
        if (stage := placement.stage(member.id)) is not None
    ]
    to_head = member.links.get(state.head)
    return {
        "id": member.id,
        "name": member.name,
        "region": member.region,
        "state": _state(state, member, now_s),
        "trust": state.members.trust(member.id, now_s),
        "doubt": _doubt(state, member, now_s),
        "device": member.claimed.name if member.claimed is not None else "",
        "memory_bytes": state.members.cap(member, now_s),
        "host_memory_bytes": member.device.host_memory_bytes if member.device is not None else 0,
        "layers": next(([stage.first, stage.last] for _, stage in held), None),
        "stages": [{"pipeline": str(p.id), "first": stage.first, "last": stage.last} for p, stage in held],
        "round_trip_s": 2 * to_head.latency_s if to_head is not None else None,
        "active_requests": member.active_requests,
        "steps": member.steps,
        "busy_s": round(member.busy_s, 4),
        "slowness": member.slowness,
        "silent_s": round(now_s - member.heard_s, 2),
        "gone_s": None,
    }


def _state(state: BrokerState, member: Member, now_s: float) -> str:
    if member.draining:
        return "draining"
    if any(placement.holds(member.id) for placement in state.pipelines.serving()):
        return "serving"
    if any(placement.holds(member.id) for placement in state.pipelines.pending()):
        return "loading"
    if member.device is None:
        return "measuring" if member.claimed is None else "proving"
    return "resting" if state.members.is_resting(member.id, now_s) else "standby"


def _doubt(state: BrokerState, member: Member, now_s: float) -> str:
    """What of its claims is not believed, in a sentence or two."""
    standing = state.members.standing(member.id, now_s)
    shown = "" if state.members.is_own(member.id) else standing.doubt
    return " ".join(said for said in (standing.beyond, shown) if said)


def _gone(state: BrokerState, record: Mapping[str, Any], wall_s: float) -> View:
    node: NodeId = record["id"]
    return {
        "id": node,
        "name": record["name"],
        "region": record["region"],
        "state": "banned" if node in state.admission.banned else "gone",
        "trust": "own" if state.members.is_own(node) else "",
        "doubt": "",
        "device": "",
        "memory_bytes": record["claim_bytes"],
        "layers": None,
        "stages": [],
        "round_trip_s": None,
        "active_requests": 0,
        "steps": None,
        "busy_s": None,
        "slowness": None,
        "silent_s": None,
        "gone_s": round(max(0.0, wall_s - record["seen_s"])),
    }
