"""The pool as people see it: plain records for the status page and the command line. Decides nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from muster.broker.members.membership import Member
from muster.broker.state import BrokerState
from muster.spec.pool import NodeId

View = dict[str, Any]
PIN_DUE = "It is here, and gets its layers when the pool next looks for something better."


def status_view(state: BrokerState) -> View:
    """What serves, what loads, who is here, and what is wrong if nothing serves."""
    placing = state.placing
    serving, pending = placing.serving, placing.pending
    return {
        "model": state.served.shape.name,
        "ready": serving is not None,
        "reason": "" if serving is not None else _reason(state),
        "epoch": serving.epoch if serving is not None else 0,
        "active_requests": sum(member.active_requests for member in state.members),
        "placement": _stages(state),
        "pipeline": _pipeline(state),
        "explanation": serving.explanation if serving is not None else "",
        "max_context": max_context(state),
        "loading": _loading(state) if pending is not None else [],
        "nodes": [],
    }


def pins_view(state: BrokerState, now_s: float) -> list[View]:
    """What became of every pin; `reason` says why it is not kept."""
    serving = state.placing.serving
    stages = serving.pipeline.stages if serving is not None else ()
    views = []
    for one in state.placing.pinned(now_s):
        kept = one.stage is not None and one.stage in stages
        reason = "" if kept else one.trouble or state.placing.pin_trouble or PIN_DUE
        views.append(
            {"node": one.pin.node, "first": one.pin.first, "last": one.pin.last, "kept": kept, "reason": reason}
        )
    return views


def _reason(state: BrokerState) -> str:
    if state.placing.pending is not None:
        return "Machines are loading their layers."
    return state.placing.trouble or "The pool is being arranged."


def max_context(state: BrokerState) -> int:
    """Longest sequence that the serving pipeline has cache for; 0 while nothing serves."""
    serving = state.placing.serving
    if serving is None:
        return 0
    return min(state.served.shape.max_context, serving.pipeline.serve.cache_tokens)


def _stages(state: BrokerState) -> list[View]:
    serving = state.placing.serving
    if serving is None:
        return []
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


def _pipeline(state: BrokerState) -> View | None:
    """How full the serving pipeline may be run."""
    if state.placing.serving is None:
        return None
    pipeline = state.placing.serving.pipeline
    return {
        "num_pages": pipeline.serve.num_pages,
        "page_size": pipeline.serve.page_size,
        "num_microbatches": pipeline.serve.num_microbatches,
    }


def _loading(state: BrokerState) -> list[View]:
    pending = state.placing.pending
    if pending is None:
        return []
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


def nodes_view(state: BrokerState, past: Iterable[Mapping[str, Any]], now_s: float) -> list[View]:
    """Everybody who is here, then everybody who was (`past`: the store's records)."""
    here = [_member(state, member, now_s) for member in state.members]
    present = set(state.members.members)
    gone = [_gone(state, record) for record in past if record["id"] not in present]
    return [*here, *gone]


def _member(state: BrokerState, member: Member, now_s: float) -> View:
    serving = state.placing.serving
    stage = serving.stage(member.id) if serving is not None else None
    to_head = member.links.get(state.head)
    return {
        "id": member.id,
        "name": member.name,
        "region": member.region,
        "state": _state(state, member, now_s),
        "device": member.device.name if member.device is not None else "",
        "memory_bytes": state.members.cap(member, now_s),
        "layers": [stage.first, stage.last] if stage is not None else None,
        "round_trip_s": 2 * to_head.latency_s if to_head is not None else None,
        "active_requests": member.active_requests,
        "steps": member.steps,
        "busy_s": round(member.busy_s, 4),
        "slowness": member.slowness,
        "silent_s": round(now_s - member.heard_s, 2),
    }


def _state(state: BrokerState, member: Member, now_s: float) -> str:
    serving, pending = state.placing.serving, state.placing.pending
    if member.draining:
        return "draining"
    if serving is not None and serving.holds(member.id):
        return "serving"
    if pending is not None and pending.holds(member.id):
        return "loading"
    if member.device is None:
        return "measuring"
    return "resting" if state.members.is_resting(member.id, now_s) else "standby"


def _gone(state: BrokerState, record: Mapping[str, Any]) -> View:
    node: NodeId = record["id"]
    return {
        "id": node,
        "name": record["name"],
        "region": record["region"],
        "state": "banned" if node in state.banned else "gone",
        "device": "",
        "memory_bytes": record["claim_bytes"],
        "layers": None,
        "round_trip_s": None,
        "active_requests": 0,
        "steps": None,
        "busy_s": None,
        "slowness": None,
        "silent_s": None,
    }
