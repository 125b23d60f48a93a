"""What unequal stages are worth under deadlines: three kinds of plans for the same fleet, all judged alike.

    any        whatever the planner finds, the plans of the other two kinds as well
    symmetric  the planner again, told that all stages of a replica have one tensor-parallel degree and as many layers
               as near as it goes; replicas may differ, and machines may be left out; the uniform ones too. The
               stricter yardstick
    uniform    what most engines are told: one degree and one number of stages for all replicas, level layers

Knows no fleet and no record.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.serving_fleets import CHAT
from muster.cost.pace import TYPICAL
from muster.errors import MusterError
from muster.plan.serve.cuts import Cut, Item
from muster.plan.serve.fleet import sort_into_classes
from muster.plan.serve.job import Job, make_job
from muster.plan.serve.layout import Slice, Team, team
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.realise import realise
from muster.plan.serve.replica import Replica, Replicas
from muster.plan.serve.search import plan_serving
from muster.plan.serve.trial import Trials
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload

MADE_FOR = (2.0, 3.0, 5.0)
"""Deadlines that plans are made for: once for a rate near what an offline plan does, once for a little more than the
plans known by then bear."""
NEAR, MORE = 0.8, 1.2
IN_TIME = 0.99
LEAST, BISECTIONS = 0.15, 6
"""The least rate that is tried, of what a plan does offline. Bisections are of one plan at a time."""
SEED = 1
"""Of arrivals; the planner's own trials use another."""
PROMPTS = (512, 128)
"""Most prompt tokens in a step that are tried for the offline rate."""
UNIFORM_TRIED = 8


@dataclass(frozen=True)
class Effort:
    """How much is tried."""

    evaluations: int = 200
    """Of each search, whatever it may find."""
    requests: int = 1000
    """In each simulation."""
    multiples: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0)
    """Deadlines at which peak rates are told, in times of one request alone on the quickest plan."""
    curve: tuple[float, ...] = (0.25, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.9)
    """Rates at which shortest deadlines are told, of the best peak rate at the longest deadline."""


WHOLE = Effort()
PART = Effort(evaluations=30, requests=200, multiples=(5.0,), curve=(0.4, 0.65))
"""Some minutes of it."""


@dataclass
class Side:
    """The plans of one kind."""

    pool: Pool
    shape: ModelShape
    effort: Effort
    plans: tuple[Plan, ...]
    capacity: dict[Plan, float]
    """Requests a second that they can answer for ever, by the closed form."""

    @staticmethod
    def of(pool: Pool, shape: ModelShape, effort: Effort, plans: Sequence[Plan]) -> "Side":
        distinct = tuple(dict.fromkeys(replace(plan, explanation="", step_seconds=0.0) for plan in plans))
        return Side(pool, shape, effort, distinct, {plan: _capacity(plan, pool, shape) for plan in distinct})

    def grown(self, plan: Plan) -> "Side":
        """With one plan more."""
        more = Side.of(self.pool, self.shape, self.effort, [plan])
        both = more.capacity | self.capacity
        return Side(self.pool, self.shape, self.effort, tuple(both), both)

    def offline_tokens_per_s(self) -> float:
        """As simulated, of the plan that the closed form likes best, with any of the amounts of prompts in a step."""
        best = max(self.plans, key=lambda plan: self.capacity[plan])
        tries = (
            replace(best, pipelines=tuple(one.with_work(prefill_tokens=tokens) for one in best.pipelines))
            for tokens in PROMPTS
        )
        return max(simulate_serving(plan, self.pool, self.shape, CHAT).tokens_per_s for plan in tries)

    def peak(self, deadline_s: float) -> float:
        """The highest rate at which some plan has 99 % in time."""
        best = 0.0
        for plan in sorted(self.plans, key=lambda plan: -self.capacity[plan]):
            best = max(best, self._peak_of(plan, deadline_s, best))
        return best

    def _peak_of(self, plan: Plan, deadline_s: float, beaten: float) -> float:
        """Of one plan, for which more requests are never better; 0 if it does not beat what is known."""
        low, high = max(beaten, self.capacity[plan] * LEAST), self.capacity[plan]
        if high <= low or not self._keeps(plan, low, deadline_s):
            return 0.0
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self._keeps(plan, middle, deadline_s) else (low, middle)
        return low

    def _keeps(self, plan: Plan, rate: float, deadline_s: float) -> bool:
        return self._slowest_s(plan, rate) <= deadline_s

    def _slowest_s(self, plan: Plan, rate: float) -> float:
        """Within which 99 % of the requests are answered."""
        work = replace(CHAT, requests_per_s=rate)
        run = simulate_serving(plan, self.pool, self.shape, work, num_requests=self.effort.requests, seed=SEED)
        times = sorted(request.request_s for request in run.requests)
        return times[math.ceil(IN_TIME * len(times)) - 1]

    def shortest_deadline(self, rate: float) -> float | None:
        """None if no plan keeps up with the rate at all."""
        able = [plan for plan in self.plans if self.capacity[plan] >= rate]
        return min((self._slowest_s(plan, rate) for plan in able), default=None)


def _capacity(plan: Plan, pool: Pool, shape: ModelShape) -> float:
    return serve_forecast(plan, pool, shape, CHAT).capacity_tokens_per_s / CHAT.output_tokens


def compare(pool: Pool, shape: ModelShape, say: Any, effort: Effort = WHOLE) -> dict[str, Any]:
    quick = [_plan(pool, shape, effort, CHAT, "latency", level) for level in (False, True)]
    offline = [_plan(pool, shape, effort, CHAT, "throughput", level) for level in (False, True)]
    alone_s, bound_tokens = min(found.score for found in quick), offline[0].bound
    plans, symmetric = (
        _made(pool, shape, effort, alone_s, level, [quick[level].plan, offline[level].plan]) for level in (False, True)
    )
    uniform = Side.of(pool, shape, effort, list(_uniform(pool, shape, alone_s, symmetric)))
    sides = {
        "any": plans,
        "symmetric": Side.of(pool, shape, effort, [*symmetric.plans, *uniform.plans]),
        "uniform": uniform,
    }
    say("plans", {name: len(side.plans) for name, side in sides.items()})
    tokens = {name: side.offline_tokens_per_s() for name, side in sides.items()}
    peaks = []
    for multiple in effort.multiples:
        row = {name: side.peak(alone_s * multiple) for name, side in sides.items()}
        row["any"] = max(row.values())
        peaks.append({"multiple": multiple, "deadline_s": round(alone_s * multiple, 2), **_rounded(row), **_over(row)})
        say("peak", peaks[-1])
    best = peaks[-1]["any"]
    deadlines = []
    for share in effort.curve:
        row = {name: side.shortest_deadline(share * best) for name, side in sides.items()}
        row["any"] = min((each for each in row.values() if each is not None), default=None)
        deadlines.append({"requests_per_s": round(share * best, 3), **_rounded(row), **_under(row)})
        say("deadline", deadlines[-1])
    return {
        "evaluations": effort.evaluations,
        "alone_s": round(alone_s, 3),
        "plans": {name: len(side.plans) for name, side in sides.items()},
        "offline_bound_tokens_per_s": round(bound_tokens, 1),
        "offline_tokens_per_s": {**_rounded(tokens), **_over(tokens)},
        "bound_over_symmetric": round(bound_tokens / tokens["symmetric"], 3) if tokens["symmetric"] else None,
        "peak_requests_per_s": peaks,
        "shortest_deadline_s": deadlines,
        "best_rate_over_symmetric": max((row["over_symmetric"] or 0.0 for row in peaks), default=None),
        "best_deadline_over_symmetric": max((row["under_symmetric"] or 0.0 for row in deadlines), default=None),
    }


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else round(value, 3) for name, value in row.items()}


def _over(row: dict[str, float]) -> dict[str, float | None]:
    """How many times the others' rate; None where theirs is 0."""
    return {
        f"over_{name}": round(row["any"] / row[name], 3) if row[name] else None for name in ("symmetric", "uniform")
    }


def _under(row: dict[str, float | None]) -> dict[str, float | None]:
    """How many times as long the others' deadlines are; None where one of both keeps up at no deadline."""
    mine = row["any"]
    return {
        f"under_{name}": None if mine is None or (their := row[name]) is None else round(their / mine, 3)
        for name in ("symmetric", "uniform")
    }


def _plan(pool: Pool, shape: ModelShape, effort: Effort, work: ServeWorkload, objective: Any, level: bool) -> Any:
    options = ServeOptions(objective=objective, symmetric=level, evaluations=effort.evaluations)
    return plan_serving(shape, pool, work, options)


def _made(pool: Pool, shape: ModelShape, effort: Effort, alone_s: float, level: bool, plans: list[Plan]) -> Side:
    """These (the last for offline work: with less of a prompt in a step too) and what is made of each deadline."""
    offline = plans[-1]
    for tokens in PROMPTS:
        pipelines = tuple(one.with_work(prefill_tokens=tokens) for one in offline.pipelines)
        plans.append(replace(offline, pipelines=pipelines))
    side = Side.of(pool, shape, effort, plans)
    for deadline_s in (alone_s * multiple for multiple in MADE_FOR):
        for near in (True, False):
            rate = NEAR * max(side.capacity.values()) if near else MORE * side.peak(deadline_s)
            try:
                work = replace(CHAT, requests_per_s=rate, deadline_s=deadline_s)
                side = side.grown(_plan(pool, shape, effort, work, "slo", level).plan)
            except MusterError:
                break  # nothing answers that soon, or at any rate
    return side


def _uniform(pool: Pool, shape: ModelShape, alone_s: float, symmetric: Side) -> Iterator[Plan]:
    """For each deadline the best of all degrees and numbers of stages, tuned like the others."""
    fleet = sort_into_classes(pool)
    for deadline_s in (alone_s * multiple for multiple in MADE_FOR):
        rate = symmetric.peak(deadline_s) or LEAST * max(symmetric.capacity.values())
        for share in (0.8, MORE):
            work = replace(CHAT, requests_per_s=share * rate, deadline_s=deadline_s)
            job = make_job(shape, fleet, work, ServeOptions(objective="slo"), TYPICAL)
            replicas = Replicas(job)
            made = [one for degree in (1, 2, 4, 8) for one in _of_degree(job, replicas, degree)]
            made.sort(key=lambda one: -one[0])
            if made:
                yield Trials(pool, job, TYPICAL).ranked([plan for _, plan in made[:UNIFORM_TRIED]])[0]


def _of_degree(job: Job, replicas: Replicas, degree: int) -> Iterator[tuple[float, Plan]]:
    """(requests a second in time by the closed form, plan) for every number of stages."""
    fleet = job.fleet
    order = sorted(
        range(len(fleet.nodes)), key=lambda node: (fleet.region_of[fleet.class_of[node]], fleet.class_of[node], node)
    )
    slots = [node for node in order for _ in range(fleet.nodes[node].device_count // degree)]
    for stages in range(1, min(len(slots), job.shape.num_layers) + 1):
        chunks = [slots[first : first + stages] for first in range(0, len(slots) - stages + 1, stages)]
        made = [_level(job, replicas, nodes, degree) for nodes in chunks]
        able = [one for one in made if one is not None]
        if able:
            layout, found = tuple(members for members, _ in able), tuple(one for _, one in able)
            plan = realise(fleet, job.shape, job.options, layout, found, (True,) * len(able))
            yield sum(one.setting.in_time_per_s for one in found), plan


def _level(job: Job, replicas: Replicas, nodes: Sequence[int], degree: int) -> tuple[Team, Replica] | None:
    """One stage of so many devices on each of the nodes, in this order."""
    machines = list(dict.fromkeys(nodes))
    order = tuple(Item(job.fleet.class_of[node], degree * nodes.count(node)) for node in machines)
    ends = [round(number * job.shape.num_layers / len(nodes)) for number in range(len(nodes) + 1)]
    cuts = tuple(
        Cut(machines.index(node), degree, first, last) for node, first, last in zip(nodes, ends, ends[1:], strict=False)
    )
    setting = replicas.setting(order, cuts)
    if setting is None:
        return None
    members = team(Slice(node, degree * nodes.count(node)) for node in machines)
    return members, Replica(order, cuts, setting, setting.in_time_per_s)
