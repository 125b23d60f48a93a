"""A pinned machine of a real pool: it has its layers, is replaced when it dies, and gets them again when it is back."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.workload import mixed_requests
from muster.plan.serve.options import Pin
from muster.spec.plan import Stage
from tests.flows.live_pool import JOB, LivePool, Machine


def stage_of(pool: LivePool, machine: Machine) -> Stage | None:
    route = pool.route()
    stages = route.pipeline.stages if route is not None else ()
    return next((stage for stage in stages if stage.node == machine.id), None)


@pytest.mark.chaos  # `tests/broker/test_pins` has the decisions; this, that streams go on
def test_a_pinned_machine_dies_is_replaced_and_comes_back_while_every_stream_says_the_same(
    model_path: Path, tmp_path: Path
) -> None:
    pinning = replace(JOB, pins=(Pin("machine-3", 1, 3),))
    with LivePool(tmp_path, str(model_path), options=pinning) as pool:
        pool.until_serving()
        pinned = next(machine for machine in pool.machines if machine.name == "machine-3")
        assert stage_of(pool, pinned) == Stage(pinned.id, 1, 3)
        requests = mixed_requests(6, 3, 60, 24, pool.model.shape.vocab_size)
        quiet = pool.ask(requests)
        pool.kill(pinned)
        pool.until_serving(without=[pinned])
        assert "machine-3 is not here" in pool.status()["pins"][0]["reason"]
        assert pool.ask(requests) == quiet
        again = pool.add_machine(name="machine-3")
        pool.until("the pin", lambda: stage_of(pool, again) == Stage(again.id, 1, 3))
        assert pool.status()["pins"] == [{"node": "machine-3", "first": 1, "last": 3, "kept": True, "reason": ""}]
        assert pool.ask(requests) == quiet
