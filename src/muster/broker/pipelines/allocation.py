"""Machines among all pipelines: what each holds, what is left for whom, and which epoch comes next. Pure.

A machine may work for several jobs at once, as far as its memory goes; planners then count on a part of its speed. The
pipelines of one job never share a machine: that would only divide its speed.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from muster.broker.events import PipelineId
from muster.broker.members.membership import Membership
from muster.broker.pipelines.placement import Placement
from muster.spec.pool import Device, Node, NodeId, Pool


class Allocation:
    def __init__(self, members: Membership, live: Callable[[], Iterable[Placement]], epoch: int) -> None:
        """`live` gives the placements of all pipelines, those that work and those that load."""
        self._members, self._live = members, live
        self.epoch = epoch
        """The largest ever given."""

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def held_bytes(self, node: NodeId) -> int:
        """Memory of all stages that the node was told to hold."""
        return sum(placement.bytes_on(node) for placement in self._live() if placement.holds(node))

    def loaded_bytes(self, node: NodeId) -> int:
        """Memory of all stages that the node says it holds."""
        loaded = [p for p in self._live() if p.holds(node) and p.loads[node].loaded]
        return sum(placement.bytes_on(node) for placement in loaded)

    def booked_bytes(self, node: NodeId, besides: PipelineId | None = None) -> int:
        """The most that the node is to hold at once: a deferred stage takes the place of what its pipeline holds."""
        return self._booked(node, besides, Placement.bytes_on)

    def booked_host_bytes(self, node: NodeId, besides: PipelineId | None = None) -> int:
        """Likewise of its host's memory."""
        return self._booked(node, besides, Placement.host_bytes_on)

    def _booked(self, node: NodeId, besides: PipelineId | None, bytes_on: Callable[[Placement, NodeId], int]) -> int:
        most: dict[PipelineId, int] = {}
        for placement in self._live():  # of each pipeline, what works comes before what loads
            before, more = most.get(placement.id, 0), bytes_on(placement, node)
            most[placement.id] = max(before, more) if node in placement.deferred else before + more
        return sum(booked for id, booked in most.items() if id != besides)

    def must_wait(self, node: NodeId, placement: Placement, now_s: float) -> bool:
        """Whether a stage has room on the node only when what its pipeline holds there has made way."""
        own = sum(p.bytes_on(node) for p in self._live() if p.id == placement.id and p.holds(node))
        cap = self._members.cap(self._members.members[node], now_s)
        needed = self.booked_bytes(node, placement.id) + own + placement.bytes_on(node)
        return own > 0 and (needed > cap or self._host_must_wait(node, placement))

    def _host_must_wait(self, node: NodeId, placement: Placement) -> bool:
        device = self._members.members[node].device
        own = sum(p.host_bytes_on(node) for p in self._live() if p.id == placement.id and p.holds(node))
        needed = self.booked_host_bytes(node, placement.id) + own + placement.host_bytes_on(node)
        return own > 0 and device is not None and needed > device.host_memory_bytes

    def at_work(self, besides: PipelineId) -> frozenset[NodeId]:
        """Machines that other pipelines count on."""
        return frozenset(node for placement in self._live() if placement.id != besides for node in placement.nodes)

    def is_shared(self, node: NodeId) -> bool:
        """Whether several pipelines count on the node."""
        return len({placement.id for placement in self._live() if placement.stage(node) is not None}) > 1

    def pool(self, id: PipelineId, now_s: float, also: Iterable[NodeId] = ()) -> Pool:
        """What a plan for this pipeline may use. `also` are members that count whatever their standing."""
        pool = self._members.pool(now_s, tuple(also))
        others = [placement for placement in self._live() if placement.id != id]
        if not others:
            return pool
        return replace(pool, nodes=tuple(rest for node in pool.nodes if (rest := self._left(node, id, others))))

    def _left(self, node: Node, id: PipelineId, others: Iterable[Placement]) -> Node | None:
        """What the others leave of a machine; None: nothing for this pipeline."""
        here = {placement.id for placement in others if placement.stage(node.id) is not None}
        memory_bytes = node.device.memory_bytes - self.booked_bytes(node.id, id)
        if memory_bytes <= 0 or any(other.job == id.job for other in here):
            return None
        host_bytes = max(0, node.device.host_memory_bytes - self.booked_host_bytes(node.id, id))
        left = replace(node.device, memory_bytes=memory_bytes, host_memory_bytes=host_bytes)
        return replace(node, device=_share(left, 1 + len(here)))


def _share(device: Device, pipelines: int) -> Device:
    """One of so many equal shares of its time."""
    speeds = {dtype: speed / pipelines for dtype, speed in device.flops_per_s.items()}
    bandwidth = device.memory_bandwidth_bytes_per_s / pipelines
    return replace(device, flops_per_s=speeds, memory_bandwidth_bytes_per_s=bandwidth)
