"""A plan with everything it rests on, as JSON: the lock file of `muster plan --lock`. Knows no disk and no search.

    {"muster_plan": 1, "objective": "throughput", "seed": 0,
     "model": {...}, "workload": {...}, "pool": "<the text of a pool file>", "plan": {...}}

The pool stands in it as the text of a pool file, so that a person can read it and a plan can be simulated without it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np

from muster.errors import InvalidRequest
from muster.spec.link_matrix import link_matrices
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.plan_check import check_plan, check_shape, check_training
from muster.spec.pool import Node, Pool
from muster.spec.pool_file import parse_pool
from muster.spec.pool_text import to_toml
from muster.spec.workload import OBJECTIVES, TRAINING, Objective, ServeWorkload, TrainWorkload
from muster.spec.written import suggest

FORMAT = 1
TOLD = (
    *("forecast", "beyond_runtime", "cost", "search", "seconds", "explain"),
    *("cost_s", "data_parallel_s", "pipeline_s", "placement", "job"),
)
"""What `--json` says beside the plan; a reader of plans does not need it."""
_AGAIN = "make it anew with `muster plan MODEL --pool POOL --lock FILE`."
_EXPECTED = re.compile(r"Expected ([a-z |]+), got ([a-z |]+)")
_KINDS = {"array": "a list", "object": "a table", "int": "a whole number", "float": "a number", "str": "text"}
_KINDS |= {"bool": "true or false", "null": "nothing"}
_MAX_DIGITS = 19
"""Of a whole number: more is no size of anything, and slow to read."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    objective: Objective
    seed: int
    shape: ModelShape
    workload: ServeWorkload | TrainWorkload
    pool: Pool
    plan: Plan


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    muster_plan: int
    objective: str
    seed: int
    model: ModelShape
    workload: dict[str, Any]
    pool: str
    plan: Plan


def to_record(file: PlanFile) -> dict[str, Any]:
    """What JSON says of it. Raises `InvalidRequest` on a pool that a pool file cannot say (a link that is down)."""
    return {
        "muster_plan": FORMAT,
        "objective": file.objective,
        "seed": file.seed,
        "model": asdict(file.shape),
        "workload": asdict(file.workload),
        "pool": to_toml(file.pool),
        "plan": msgspec.to_builtins(file.plan),
    }


def parse_plan_file(text: str, name: str = "The plan file") -> PlanFile:
    """`name` begins the sentence of an error. Raises `InvalidRequest` on anything that is not a whole, usable plan."""
    entries = _entries(text, name)
    if entries.get("muster_plan") != FORMAT:
        raise InvalidRequest(f"{name} is of a format that this Muster does not know; {_AGAIN}", "lock")
    try:
        written = msgspec.convert(entries, _Written)
        workload = _workload(written)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{name} cannot be used ({_in_words(error)}); {_AGAIN}", "lock") from None
    _refuse_unknown(entries["model"], asdict(written.model), f"{name}'s model")
    _refuse_unknown(entries["plan"], msgspec.to_builtins(written.plan), f"{name}'s plan")
    _refuse_unknown(entries["workload"], asdict(workload), f"{name}'s workload")
    objective = _objective(written, name)
    pool = parse_pool(written.pool)
    check_shape(written.model)
    check_plan(written.plan, pool, written.model)
    if isinstance(workload, TrainWorkload):
        check_training(written.plan, workload)
    return PlanFile(objective, written.seed, written.model, workload, pool, written.plan)


def _objective(written: _Written, name: str) -> Objective:
    for known in OBJECTIVES:
        if written.objective == known:
            break
    else:
        raise InvalidRequest(f"{name} has an unknown objective; {suggest(written.objective, OBJECTIVES)}", "lock")
    if (known in TRAINING) != written.plan.trains:
        does = "trains" if written.plan.trains else "serves"
        raise InvalidRequest(f"{name} has the objective {known} and a plan that {does}; {_AGAIN}", "lock")
    return known


def _workload(written: _Written) -> ServeWorkload | TrainWorkload:
    if written.plan.trains:
        return msgspec.convert(written.workload, TrainWorkload)
    return msgspec.convert(written.workload, ServeWorkload)


def why_useless(file: PlanFile, shape: ModelShape, pool: Pool) -> str | None:
    """What makes the plan impossible for this model and pool, as the middle of a sentence; None if it still holds."""
    if file.shape != shape:
        return _model_differs(file.shape, shape)
    now = {node.id: node for node in pool.nodes}
    used = {node for pipeline in file.plan.pipelines for node in pipeline.nodes()}
    for node in (node for node in file.pool.nodes if node.id in used):
        reason = _machine_differs(node, now.get(node.id))
        if reason:
            return reason
    return None


def what_changed(file: PlanFile, pool: Pool) -> str | None:
    """What of the pool is no longer as the plan was made for, where the plan still holds; None if nothing is."""
    then, now = ({node.id: node for node in some.nodes} for some in (file.pool, pool))
    gone, come = [then[key].name for key in then.keys() - now.keys()], [now[key].name for key in now.keys() - then]
    if come:
        return f"{_some(come)} joined since"
    if gone:
        return f"{_some(gone)} left since"
    if any(then[key] != now[key] for key in then):
        return "speeds or prices of machines are others than then"
    before, after = link_matrices(_ordered(file.pool)), link_matrices(_ordered(pool))
    return None if np.array_equal(before, after) else "links are faster or slower than then"


def _ordered(pool: Pool) -> Pool:
    nodes = tuple(sorted(pool.nodes, key=lambda node: node.id))
    return Pool(nodes, pool.links, pool.default_link)


def _some(names: list[str]) -> str:
    names = sorted(names)
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _model_differs(then: ModelShape, now: ModelShape) -> str:
    if (then.name, then.dtype) != (now.name, now.dtype):
        return f"it was made for {then.name} in {then.dtype}, not for {now.name} in {now.dtype}"
    if then.num_layers != now.num_layers:
        return f"its {then.name} has {then.num_layers} layers, and this one {now.num_layers}"
    return f"its {then.name} has layers of other sizes than this one"


def _machine_differs(then: Node, now: Node | None) -> str | None:
    if now is None:
        return f"machine {then.name} of it is not in the pool"
    if now.device_count < then.device_count:
        return f"machine {then.name} of it has {now.device_count} devices now, not {then.device_count}"
    if now.device.memory_bytes < then.device.memory_bytes:
        less = (then.device.memory_bytes - now.device.memory_bytes) / 2**30
        return f"machine {then.name} of it lends {less:.2g} GiB less than then"
    return None


def _entries(text: str, name: str) -> dict[str, Any]:
    try:
        entries = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} is not valid JSON ({error}); {_AGAIN}", "lock") from None
    if not isinstance(entries, dict) or "muster_plan" not in entries:
        raise InvalidRequest(f"{name} is not a plan; {_AGAIN}", "lock")
    return {key: value for key, value in entries.items() if key not in TOLD}


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"{digits[:8]}… is too large a number")
    return int(digits)


def _refuse_unknown(written: Any, understood: Any, where: str) -> None:
    """Records of the house do not refuse keys that they lack, so what was read is laid beside what was written."""
    if isinstance(written, Mapping) and isinstance(understood, Mapping):
        for key, value in written.items():
            if key not in understood:
                raise InvalidRequest(f"{where} has an unknown key {key!r}; remove it or check its spelling.", "lock")
            _refuse_unknown(value, understood[key], where)
    elif isinstance(written, list) and isinstance(understood, list | tuple):
        for one, other in zip(written, understood, strict=True):
            _refuse_unknown(one, other, where)


def _in_words(error: Exception) -> str:
    """msgspec's remark without quotes and its names of kinds: `a whole number is wanted, not text, at model.dtype`."""
    says = str(error).replace("`", "").replace(" - at $.", ", at ").replace(" - at $", "")
    match = _EXPECTED.match(says)
    if match is None:
        return says
    wanted, got = (" or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | ")) for kinds in match.groups())
    return f"{wanted} is wanted, not {got}{says[match.end() :]}"
