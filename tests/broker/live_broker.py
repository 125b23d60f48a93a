"""A head and its scripted nodes on one in-memory network, for the tests of the broker's shell."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

from muster.broker.events import Route
from muster.broker.members.membership import LeaseOptions
from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import JobOptions, SearchPlan
from muster.broker.pipelines.serve import serve_job
from muster.broker.service import BrokerService
from muster.broker.state import BrokerOptions
from muster.broker.storage.store import Store
from muster.link.memory import MemoryNetwork
from muster.plan.quick.planner import Planner, place
from muster.wire.messages.membership import Welcome
from tests.broker.actors import HEAD, PIPELINE, PLANNING, SERVED, node_id
from tests.broker.fake_node import FakeNode

OPTIONS = BrokerOptions(
    leases=LeaseOptions(heartbeat_s=0.1, lease_s=0.8, rest_s=0.1), trust=TrustOptions(everybody=True)
)
JOB_OPTIONS = JobOptions(settle_s=0.2, retry_s=0.1, rebalance_s=0.5, planning=PLANNING)
BLOB = bytes(range(256)) * 100


def newest(routes: Collection[Route]) -> Route | None:
    """Of a job's routes, where a test has one pipeline."""
    return max(routes, key=lambda route: route.epoch, default=None)


def read_blob(digest: str, offset: int, length: int) -> tuple[bytes, int] | None:
    return (BLOB[offset : offset + length], len(BLOB)) if digest == "ab" * 32 else None


class Pool:
    """A head and its nodes on one in-memory network."""

    def __init__(self, folder: Path, search: SearchPlan | None = None, planner: Planner = place) -> None:
        self.folder, self.search, self.planner = folder, search, planner
        self.network = MemoryNetwork()
        self.nodes: list[FakeNode] = []
        self.wall_s = 1e9

    async def start_head(self) -> None:
        self.store = Store.at(self.folder / "pool.db")
        self.service = BrokerService(
            [serve_job(SERVED, self.planner, self.search, JOB_OPTIONS)],
            self.store,
            read_blob,
            options=OPTIONS,
            wall_clock=lambda: self.wall_s,
        )
        await self.service.start(self.network.endpoint(HEAD))

    async def stop_head(self) -> None:
        await self.service.close()
        self.store.close()

    async def ticket(self):
        self._ticket = await self.service.issue_ticket(valid_s=3600)
        return self._ticket

    def fake(self, number: int, memory_mib: float = 500, speed: float = 1) -> FakeNode:
        node = FakeNode(self.network, node_id(number), self._ticket, memory_mib, speed)
        self.nodes.append(node)
        return node

    async def join(self, *sizes: float) -> list[FakeNode]:
        # The fourth is so slow that it stays on standby until it is needed.
        nodes = [self.fake(len(self.nodes) + 1, size, (1.0, 0.9, 0.8, 0.05)[len(self.nodes)]) for size in sizes]
        for node in nodes:
            assert isinstance(await node.join(), Welcome)
        return nodes

    async def until(self, what: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.02)

    def route(self) -> Route | None:
        return newest(self.service.routes(PIPELINE.job))

    async def serving(self, *numbers: int) -> Route:
        """Wait until exactly these nodes serve."""
        wanted = {node_id(number) for number in numbers}
        await self.until(lambda: (r := self.route()) is not None and set(r.pipeline.nodes()) == wanted)
        route = self.route()
        assert route is not None
        return route

    def state(self, number: int) -> str:
        return next(view["state"] for view in self.service.nodes() if view["id"] == node_id(number))
