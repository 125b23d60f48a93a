"""The best pipeline of one group of machines: order, cuts, degrees, batch. Knows nothing of other groups.

Groups of the same kinds of machines with the same links between them are the same group, wherever they stand, so each
is designed once. For a few settings (batch, steps in flight) `chain` finds the cuts; for the most promising cuts, and
for symmetric ones, `batching` then finds the best setting.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from muster.cost.swapping import swap_bytes_per_s
from muster.plan.serve.batching import FixedCuts, Setting, best_settings
from muster.plan.serve.cuts import Chain, Cut, Group, Item, Rows
from muster.plan.serve.job import Job
from muster.plan.serve.orders import between, tours
from muster.plan.serve.stage_tables import Loads, StageTables
from muster.plan.serve.symmetric_cuts import symmetric_cuts
from muster.sim.serve.ring import SAMPLE_BYTES

Floats = npt.NDArray[np.float64]
_TRACED = 2
"""Of the settings tried, so many are followed up."""
_EVERY_ORDER = 6
"""Most machines of which every order is tried, if asked for."""


@dataclass(frozen=True)
class Replica:
    order: tuple[Item, ...]
    cuts: tuple[Cut, ...]
    setting: Setting
    value: float
    """Tokens a second (for `slo`: of requests that are in time; for `latency`: per second of a request alone)."""


@dataclass
class Replicas:
    job: Job
    pins: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """By class."""
    every_order: bool = False
    designed: int = 0
    _known: dict[Hashable, tuple[Replica | None, ...]] = field(default_factory=dict)
    _found: dict[Group, tuple[Replica | None, ...]] = field(default_factory=dict)
    _chains: dict[tuple[tuple[int, float], ...], Chain] = field(default_factory=dict)

    def best(self, group: Group, aim: int = 0) -> Replica | None:
        """For the deadline of this number; None if the group cannot hold the model with one request."""
        if group not in self._found:
            key, classes = self._likeness(group)
            if key not in self._known:
                self.designed += 1
                there = {one: index for index, one in enumerate(classes)}
                self._known[key] = tuple(one and _moved(one, there) for one in self._design(group))
            back = dict(enumerate(classes))
            self._found[group] = tuple(one and _moved(one, back) for one in self._known[key])
        return self._found[group][aim]

    def _likeness(self, group: Group) -> tuple[Hashable, tuple[int, ...]]:
        """What makes two groups the same, and the classes in the order in which they correspond."""
        fleet = self.job.fleet
        devices: dict[int, list[int]] = {}
        for item in group:
            devices.setdefault(item.of_class, []).append(item.devices)
        classes = sorted(devices, key=lambda one: (fleet.kind_of[one], devices[one], one))
        what = tuple((fleet.kind_of[one], tuple(devices[one]), self.pins.get(one)) for one in classes)
        square = np.ix_(classes, classes)
        return (what, fleet.latency_s[square].tobytes(), fleet.bandwidth[square].tobytes()), tuple(classes)

    def _design(self, group: Group) -> list[Replica | None]:
        """The best for each deadline."""
        best: list[Replica | None] = [None] * len(self.job.demand.deadlines_s)
        settings = self._settings(group)
        if not settings or len(group) > self.job.tables.layers:
            return best
        # Where pins or uneven machines leave one of them little room, only a small cache may fit.
        least = [(0, 1.0, float(self.job.demand.whole_pages * self.job.demand.page_size))]
        for order in self._orders(group):
            for cuts in list(self._promising(order, settings)) or self._promising(order, least):
                for aim, setting in enumerate(best_settings(self._stages(order, cuts), self.job.demand)):
                    value, known = self._value(setting, aim), best[aim]
                    if known is None or value > known.value:
                        best[aim] = Replica(order, cuts, setting, value)
        return best

    def setting(self, order: Sequence[Item], cuts: Sequence[Cut]) -> Setting | None:
        """The best batch and cache for cuts that are known; None if not one request fits."""
        return next(iter(best_settings(self._stages(order, cuts), self.job.demand)), None)

    def _value(self, setting: Setting, aim: int) -> float:
        if self.job.options.objective == "latency":
            return self.job.workload.output_tokens / setting.idle_s
        deadline_s = self.job.demand.deadlines_s[aim]
        if deadline_s is not None and not setting.in_time_per_s:
            return 1e-6 * deadline_s / setting.service_s  # nothing in time, but some are nearer to it
        return setting.in_time_per_s * self.job.workload.output_tokens

    def _settings(self, group: Group) -> list[tuple[int, float, float]]:
        """(index of the batch, steps in flight, tokens of cache) worth trying, by the memory of the whole group."""
        shape, fleet, demand = self.job.shape, self.job.fleet, self.job.demand
        memory = sum(item.devices * fleet.kinds[fleet.kind_of[item.of_class]].device.memory_bytes for item in group)
        left = memory - shape.weight_bytes(0, shape.num_layers)
        if left < 0:
            return []
        each = demand.pages_each * demand.page_size
        sequences = left / max(1, sum(shape.kv_bytes_per_token)) / each
        least = float(demand.whole_pages * demand.page_size)
        found: dict[tuple[int, float], float] = {}
        for in_flight in self._in_flight(len(group)):
            shares = [in_flight, 2.0] if demand.swap and in_flight > 2 else [in_flight]
            for share in shares:
                for index in self._batches(sequences / share):
                    found.setdefault((index, max(least, share * self.job.batches[index] * each)), in_flight)
        return [(index, in_flight, room) for (index, room), in_flight in found.items()]

    def _in_flight(self, machines: int) -> list[float]:
        most = self.job.options.max_microbatches
        wanted = {1.0, 4.0, 8.0} if machines == 1 else {float(machines), 1.5 * machines + 1, 3.0 * machines + 2}
        return sorted(min(value, float(most)) for value in wanted)

    def _batches(self, most: float) -> list[int]:
        objective, batches = self.job.options.objective, self.job.batches
        if objective == "latency":
            return [0]
        fitting = [index for index, batch in enumerate(batches) if batch <= most] or [0]
        # Smaller ones too: where most of the memory is on slow machines, a large batch would give these the layers.
        return fitting[-1::-4] if objective == "slo" else [*fitting[-1:-4:-2], *fitting[-6::-4]]

    def _orders(self, group: Group) -> Iterable[tuple[Item, ...]]:
        if self.every_order and len(group) <= _EVERY_ORDER:
            return sorted(set(permutations(group)))
        pinned = sorted((item for item in group if item.of_class in self.pins), key=lambda it: self.pins[it.of_class])
        if not pinned:
            return tours(self.job, group)
        free = tuple(item for item in group if item.of_class not in self.pins)
        return [order for tour in tours(self.job, free) for order in between(pinned, tour)]

    def _promising(
        self, order: tuple[Item, ...], settings: Sequence[tuple[int, float, float]]
    ) -> Iterable[tuple[Cut, ...]]:
        level = dict.fromkeys(symmetric_cuts(self.job.tables, order))
        if self.job.options.symmetric or self.pins:
            return level if self.job.options.symmetric else self._best_cuts(order, settings)
        return level | dict.fromkeys(self._best_cuts(order, settings))

    def _best_cuts(
        self, order: tuple[Item, ...], settings: Sequence[tuple[int, float, float]]
    ) -> list[tuple[Cut, ...]]:
        chain = self._chain(settings)
        slowest_s = chain.slowest(order)
        if not np.isfinite(slowest_s).any():
            return []
        batches = np.array([self.job.batches[index] for index, _, _ in settings], dtype=np.float64)
        in_flight = np.array([each for _, each, _ in settings])
        found: dict[tuple[Cut, ...], None] = {}
        for loose in self._slack():
            cap_s = np.where(np.isfinite(slowest_s), slowest_s * loose, np.inf)
            around_s = chain.around(order, cap_s)
            rates = self._estimates(batches, in_flight, slowest_s, around_s)
            first = [
                np.argsort(-np.where(np.isfinite(slowest_s), rate, -1.0), kind="stable")[:_TRACED] for rate in rates
            ]
            promising = np.array(list(dict.fromkeys(int(row) for rows in first for row in rows)))
            for row in promising[np.isfinite(slowest_s[promising])]:
                found.setdefault(chain.only(int(row)).cuts(order, float(cap_s[row])))
            paced = self.job.demand.deadlines_s == (None,)
            if loose == 1.0 and paced and np.all(around_s[promising] <= in_flight[promising] * slowest_s[promising]):
                break  # the slowest stage sets the pace, so a shorter way around gains nothing
        return list(found)

    def _estimates(self, batch: Floats, in_flight: Floats, slowest_s: Floats, around_s: Floats) -> list[Floats]:
        """How good each row looks for each deadline: sequences a second; what is late counts for next to nothing."""
        period_s = np.maximum(slowest_s, around_s / in_flight)
        rate, service_s = batch / period_s, self.job.workload.output_tokens * in_flight * period_s
        return [
            rate if limit_s is None else np.where(service_s <= limit_s, rate, 1e-6 / service_s)
            for limit_s in self.job.demand.deadlines_s
        ]

    def _slack(self) -> tuple[float, ...]:
        """How much slower than the least slowest stage others may be, to make the way around shorter."""
        if self.job.options.objective == "latency":
            return (np.inf,)
        return (1.0, 1.5, np.inf) if self.every_order or self.job.options.objective == "slo" else (1.0, np.inf)

    def _chain(self, settings: Sequence[tuple[int, float, float]]) -> Chain:
        key = tuple((index, room) for index, _, room in settings)
        if key not in self._chains:
            if len(self._chains) >= 16:
                self._chains.pop(next(iter(self._chains)))
            index = np.array([one[0] for one in settings], dtype=np.int64)
            room = np.array([one[2] for one in settings])
            tokens = np.array([_tokens(self.job.tables.loads(self.job.batches[one[0]]))[0] for one in settings])
            self._chains[key] = Chain(self.job.tables, Rows(index, room, tokens), self.job.token_bytes, self.pins)
        return self._chains[key]

    def _stages(self, order: Sequence[Item], cuts: Sequence[Cut]) -> FixedCuts:
        """The tables of a pipeline whose cuts are known."""
        tables, prompts, quiet, fleet = self.job.tables, self.job.prompt_tables, self.job.quiet_tables, self.job.fleet
        long, long_share = self.job.long_tables, np.array([self.job.long_share(batch) for batch in self.job.batches])
        kinds = [fleet.kind_of[order[cut.item].of_class] for cut in cuts]
        ranges = [(kind, cut.degree, cut.first, cut.last) for kind, cut in zip(kinds, cuts, strict=True)]
        room = np.min([tables.room(kind, degree)[:, a, b] for kind, degree, a, b in ranges], axis=0)
        return FixedCuts(
            batches=np.array(self.job.batches, dtype=np.float64),
            seconds=np.array([tables.seconds(kind, degree)[:, a, b] for kind, degree, a, b in ranges]),
            long_share=long_share,
            long_seconds=long_share * np.array([long.seconds(kind, degree)[:, a, b] for kind, degree, a, b in ranges]),
            long_wire_s=long_share * self._wires(order, cuts, long),
            prompt_seconds=np.array([prompts.seconds(kind, degree)[:, a, b] for kind, degree, a, b in ranges]),
            quiet_seconds=np.array([quiet.seconds(kind, degree)[:, a, b] for kind, degree, a, b in ranges]),
            quiet_share=np.array([self.job.quiet_share(batch) for batch in self.job.batches]),
            room=room,
            wire_s=self._wires(order, cuts, tables),
            quiet_wire_s=self._wires(order, cuts, quiet),
            prompt_wire_s=self._wires(order, cuts, prompts),
            hops_s=sum(self._hop(order, here, there)[0] for here, there in _around(cuts)),
            swap_s_per_page=max(self._swap_s(*one) for one in ranges),
            host_pages=min(self._host_pages(*one) for one in ranges),
        )

    def _wires(self, order: Sequence[Item], cuts: Sequence[Cut], tables: StageTables) -> Floats:
        hops = _around(cuts)
        sent = np.array([_tokens(tables.loads(batch)) for batch in self.job.batches])
        rows = []
        for number, (here, there) in enumerate(hops):
            bandwidth = self._hop(order, here, there)[1]
            back = number == len(hops) - 1
            nbytes = sent[:, 1] * SAMPLE_BYTES if back else sent[:, 0] * self.job.token_bytes
            rows.append(nbytes / bandwidth if bandwidth > 0 else np.full(len(nbytes), np.inf))
        return np.array(rows).reshape(len(hops), len(self.job.batches))

    def _hop(self, order: Sequence[Item], here: Cut, there: Cut) -> tuple[float, float]:
        """(latency with what a message costs at both ends, bandwidth)."""
        message_s = self.job.tables.constants.message_s
        fleet, source, target = self.job.fleet, order[here.item].of_class, order[there.item].of_class
        if here.item == there.item:
            inside = fleet.inside(source)
            return inside.latency_s + message_s, inside.bandwidth_bytes_per_s
        return message_s + float(fleet.latency_s[source, target]), float(fleet.bandwidth[source, target])

    def _swap_s(self, kind: int, degree: int, first: int, last: int) -> float:
        bytes_per_s = swap_bytes_per_s(self.job.fleet.kinds[kind].device)
        return self._page_bytes(degree, first, last) / bytes_per_s if bytes_per_s else np.inf

    def _host_pages(self, kind: int, degree: int, first: int, last: int) -> float:
        page, lent = self._page_bytes(degree, first, last), self.job.fleet.kinds[kind].device.host_memory_bytes
        return lent // page if page else np.inf

    def _page_bytes(self, degree: int, first: int, last: int) -> float:
        return self.job.demand.page_size * self.job.shape.cache_bytes_per_token(first, last) / degree


def _tokens(loads: Loads) -> tuple[float, float]:
    """(tokens, tokens that are sampled) in the mean of these steps."""
    total = sum(share for share, _ in loads)
    return (
        sum(share * load.tokens for share, load in loads) / total,
        sum(share * load.samples for share, load in loads) / total,
    )


def _moved(replica: Replica, classes: Mapping[int, int]) -> Replica:
    """The same pipeline on machines of other classes."""
    return replace(replica, order=tuple(Item(classes[item.of_class], item.devices) for item in replica.order))


def _around(cuts: Sequence[Cut]) -> list[tuple[Cut, Cut]]:
    return list(zip(cuts, (*cuts[1:], cuts[0]), strict=True)) if len(cuts) > 1 else []
