"""Two pipelines of one model: requests go to both, and where one breaks its streams go on in the other at once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.workload import mixed_requests
from muster.broker.pipelines.job import PlannedPipeline
from muster.plan.serve.options import Pin
from tests.flows.live_pool import JOB, LivePool

TWO = tuple(PlannedPipeline((Pin(f"machine-{first}", 0, 4), Pin(f"machine-{first + 1}", 4, 8))) for first in (1, 3))
"""As a plan has them: two pipelines of two stages."""
ROOM = 3
"""Layers, with cache for four of the longest requests: enough for four layers with less of it, not for the model."""


@pytest.fixture
def pool(model_path: Path, tmp_path: Path) -> Iterator[LivePool]:
    with LivePool(tmp_path, str(model_path), max_layers=ROOM, options=replace(JOB, planned=TWO)) as pool:
        until_two(pool)
        yield pool


def until_two(pool: LivePool) -> None:
    pool.until("two pipelines", lambda: len(pool.routes()) == 2 and len(pool.sessions.state.streams) == 2)


def test_streams_of_a_broken_pipeline_go_on_in_the_other_and_say_the_same_before_it_is_repaired(
    pool: LivePool,
) -> None:
    assert [len(route.pipeline.stages) for route in pool.routes()] == [2, 2]
    requests = mixed_requests(8, 3, 60, 48, pool.model.shape.vocab_size)
    quiet = pool.ask(requests)
    assert pool.sessions.state.failovers == 0
    broken, kept = pool.routes()
    again = [replace(request, id=f"{request.id}-again") for request in requests]
    waiting = pool.ask_later(again)
    pool.until("streams in both", lambda: all(pool.sessions.state.streams.values()))
    victim = next(machine for machine in pool.machines if machine.id == broken.pipeline.nodes()[1])
    pool.kill(victim)
    assert list(waiting.result(60).values()) == list(quiet.values())
    assert pool.sessions.state.failovers > 0
    assert [route.epoch for route in pool.routes()] == [kept.epoch], "nobody was here to repair it"
    pool.add_machine(ROOM, name=victim.name)
    until_two(pool)
    assert kept in pool.routes()
    assert pool.ask(requests) == quiet
