"""Twenty pipelines of one model on 200 machines, some of which share stages: the books hold after every event."""

import os
from dataclasses import replace
from random import Random

import pytest

from muster.broker.events import Placed
from muster.broker.pipelines.job import JobOptions
from muster.broker.pipelines.serve import serve_job
from muster.wire.messages.membership import PeerMeasured
from tests.broker.actors import PLANNING, SERVED, node_id
from tests.broker.test_many_nodes import NODES, Crowd

PIPELINES = 20
MODEL = replace(SERVED, shape=replace(SERVED.shape, degrees=(2, 4)))


class Throng(Crowd):
    """As a crowd, with many pipelines; every second four machines are an island."""

    def __init__(self, random: Random, nodes: int) -> None:
        options = JobOptions(planning=PLANNING, most_pipelines=PIPELINES)
        super().__init__(random, nodes, [serve_job(MODEL, options=options)])

    def said_of(self, number: int) -> dict[str, str]:
        return {"island": f"island-{number // 4}"} if number // 4 % 2 else {}

    def join_as(self, number: int) -> None:
        super().join_as(number)
        for other in range(number // 4 * 4, number // 4 * 4 + 4):
            actor = next(reversed(self.actors.values()))
            if other != number and other and actor.alive and actor.id == node_id(number):
                near = PeerMeasured(peer=node_id(other), round_trip_s=0.0001, bandwidth_bytes_per_s=1e9)
                self.tell(actor, near)

    def watch(self) -> None:
        for record in self.saved:
            if isinstance(record, Placed):
                assert record.epoch > self.last_epoch, "an epoch was given twice"
                self.last_epoch = record.epoch
        self.saved.clear()
        routes = {id: route.epoch for id, route in self.route_of.items() if route is not None}
        serving = {placement.id: placement.epoch for placement in self.state.pipelines.serving()}
        assert routes == serving, "the announced routes are not what serves"
        live = self.state.pipelines.live()
        for node, member in self.state.members.members.items():
            booked = {placement.epoch for placement in live if placement.holds(node)}
            assert booked == set(self.actors[member.connection].stages)

    @property
    def degrees(self) -> list[int]:
        return [stage.degree for one in self.state.pipelines.serving() for stage in one.pipeline.stages]


@pytest.mark.parametrize("events", [40, pytest.param(10_000, marks=pytest.mark.chaos)])
def test_the_books_of_twenty_pipelines_hold_through_thousands_of_events(events: int) -> None:
    seed = int(os.environ.get("MUSTER_SEED", "20"))
    print(f"MUSTER_SEED={seed}")
    throng = Throng(Random(seed), NODES if events > 1000 else 40)
    for number in throng.truth:
        throng.join_as(number)
    most = 0
    for _ in range(events):
        throng.one_event()
        most = max(most, len(throng.state.pipelines.serving()))
    throng.calm(600 if events > 1000 else 20)
    most = max(most, len(throng.state.pipelines.serving()))
    print(f"up to {most} pipelines at once, {throng.last_epoch} placements, degrees {sorted(set(throng.degrees))}")
    assert most == PIPELINES if events > 1000 else most > 3
