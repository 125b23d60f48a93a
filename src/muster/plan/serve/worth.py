"""What replicas are worth together, and which of them had better stay idle. Knows no search."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from muster.errors import InvalidRequest
from muster.plan.serve.fleet import Fleet
from muster.plan.serve.layout import Layout, Team
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.replica import Replica
from muster.spec.plan import Plan
from muster.spec.pool import Node, Pool
from muster.spec.workload import ServeWorkload


def unpriced(pool: Pool, options: ServeOptions) -> list[Node]:
    """Machines to leave idle because money matters and they have no price; none if all are so, or one is pinned."""
    if not _money_matters(options):
        return []
    without = [node for node in pool.nodes if node.price_per_hour is None]
    pinned = {pin.node for pin in options.pins} & {name for node in without for name in (node.id, node.name)}
    return without if len(without) < len(pool.nodes) and not pinned else []


def _money_matters(options: ServeOptions) -> bool:
    return options.objective == "cost" or options.budget_per_hour is not None


@dataclass(frozen=True)
class Worth:
    fleet: Fleet
    workload: ServeWorkload
    options: ServeOptions
    pinned: frozenset[int] = frozenset()
    """Classes of one machine each that must serve."""

    @property
    def wanted(self) -> float | None:
        """Tokens a second that are asked for."""
        rate = self.workload.requests_per_s
        return None if rate is None else rate * self.workload.output_tokens

    def price(self, members: Team) -> float:
        """Dollars an hour of the machines, each whole."""
        return float(sum(self.fleet.price[self.fleet.class_of[one.node]] for one in members))

    def most_memory(self, budget: float) -> float:
        """Bytes that so many dollars an hour buy at most, if machines could be had in part."""
        total = 0.0
        offers = [
            (float(self.fleet.price[of_class]), node.device_count * node.device.memory_bytes)
            for node, of_class in zip(self.fleet.nodes, self.fleet.class_of, strict=True)
        ]
        for price, memory in sorted(offers, key=lambda offer: offer[0] / offer[1]):
            part = 1.0 if price <= budget else budget / price
            total, budget = total + part * memory, budget - part * price
        return total

    def cheapest(self, memory_bytes: float) -> tuple[Node, ...]:
        """Machines that cost least for their memory, as many as have so much of it."""

        def dollars_per_byte(node: Node) -> float:
            return (node.price_per_hour or 0.0) / max(1, node.device_count * node.device.memory_bytes)

        found: list[Node] = []
        for node in sorted(self.fleet.nodes, key=dollars_per_byte):
            if memory_bytes > 0:
                found.append(node)
                memory_bytes -= node.device_count * node.device.memory_bytes
        return tuple(found)

    def check_prices(self) -> None:
        """Raises `InvalidRequest` if money matters and some machine has no price."""
        if not _money_matters(self.options):
            return
        for node, of_class in zip(self.fleet.nodes, self.fleet.class_of, strict=True):
            if np.isnan(self.fleet.price[of_class]):
                raise InvalidRequest(
                    f"{node.name} has no price, so nothing can be said about cost; give it price_per_hour "
                    "(0 if it costs nothing) in the pool file, or choose another objective."
                )

    def chosen(self, layout: Layout, found: Sequence[Replica | None]) -> tuple[bool, ...]:
        """Which teams serve: the most valuable per dollar, as long as limits allow and they add to the objective."""
        able = [index for index, one in enumerate(found) if one is not None]
        prices = {index: self.price(layout[index]) for index in able}
        values = {index: one.value for index, one in enumerate(found) if one is not None}
        by_dollar = _money_matters(self.options)
        rank = {index: values[index] / max(prices[index], 1e-12) if by_dollar else values[index] for index in able}
        used: set[int] = set()
        machines: set[int] = set()
        paid = 0.0
        for index in sorted(able, key=lambda index: (-rank[index], index)):
            more = {one.node for one in layout[index]} - machines
            bill = paid + self._bill(more) if by_dollar else 0.0
            if self._allowed(len(used) + 1, bill) and self._adds(values, used, index, paid, bill):
                used.add(index)
                machines |= more
                paid = bill
        return tuple(index in used for index in range(len(layout)))

    def score(self, layout: Layout, found: Sequence[Replica | None], used: Sequence[bool]) -> float:
        values = [one.value for one, serves in zip(found, used, strict=True) if one is not None and serves]
        if not values or not self._pins_serve(layout, used):
            return 0.0
        if self.options.objective == "latency":
            return max(values)
        total = sum(values)
        if self.options.objective == "cost":
            paid = self._bill(
                {one.node for one in chain(*(m for m, serves in zip(layout, used, strict=True) if serves))}
            )
            enough = 1.0 if self.wanted is None else min(1.0, total / self.wanted)
            counted = total if self.wanted is None else min(total, self.wanted)
            return enough**4 * counted / max(paid, 1e-9)
        return total

    def _pins_serve(self, layout: Layout, used: Sequence[bool]) -> bool:
        if not self.pinned:
            return True
        serving = {one.node for members, serves in zip(layout, used, strict=True) if serves for one in members}
        return self.pinned <= {self.fleet.class_of[node] for node in serving}

    def bill(self, plan: Plan) -> float:
        """Dollars an hour of the machines that a plan uses."""
        used = {stage.node for pipeline in plan.pipelines for stage in pipeline.stages}
        return self._bill({index for index, node in enumerate(self.fleet.nodes) if node.id in used})

    def _bill(self, machines: set[int]) -> float:
        return float(sum(self.fleet.price[self.fleet.class_of[node]] for node in machines))

    def _allowed(self, replicas: int, paid: float) -> bool:
        most, budget = self.options.max_replicas, self.options.budget_per_hour
        return (most is None or replicas <= most) and (budget is None or paid <= budget * (1 + 1e-9))

    def _adds(self, values: dict[int, float], used: set[int], index: int, paid: float, bill: float) -> bool:
        if not used or self.options.objective == "throughput":
            return True
        if self.options.objective == "slo":
            # Who is always late only takes requests from those that are not.
            return values[index] >= 1e-3 * max(values[one] for one in used)
        if self.options.objective == "latency":
            return values[index] >= 0.5 * max(values[one] for one in used)
        before = sum(values[one] for one in used)
        if self.wanted is not None and before < self.wanted:
            return True
        if self.wanted is not None:
            return False
        return (before + values[index]) / max(bill, 1e-9) > before / max(paid, 1e-9)
