"""Stages that several machines hold together, in a real pool: the same tokens, and a repair where a member is lost."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from benchmarks.exactness import generate
from benchmarks.workload import mixed_requests
from muster.plan.serve.options import Pin
from muster.spec.plan import Stage
from tests.flows.live_pool import JOB, LivePool

PLANNED = (Pin("left", 0, 3, (0, 1)), Pin("machine-3", 3, 5), Pin("right", 5, 8, (0, 1)))
ISLANDS = ("left", "left", "", "right", "right")


def stages(pool: LivePool) -> tuple[Stage, ...]:
    route = pool.route()
    return route.pipeline.stages if route is not None else ()


def test_a_pipeline_of_two_one_and_two_members_says_what_the_model_does_and_is_repaired(
    dense: PreTrainedModel, model_path: Path, tmp_path: Path
) -> None:
    options = replace(JOB, min_nodes=5, pins=PLANNED)
    with LivePool(tmp_path, str(model_path), islands=ISLANDS, options=options, patient=True) as pool:
        pool.until_serving(3)
        requests = mixed_requests(2, 3, 40, 8, pool.model.shape.vocab_size)
        expected = {request.id: generate(dense, request) for request in requests}
        pool.until("the islands", lambda: [stage.degree for stage in stages(pool)] == [2, 1, 2])
        assert pool.ask(requests) == expected
        pool.islands.append("right")
        spare = pool.add_machine(name="spare")
        pool.until("the islands", lambda: [stage.degree for stage in stages(pool)] == [2, 1, 2])
        (other,) = stages(pool)[2].others
        pool.kill(next(machine for machine in pool.machines if machine.id == other))
        pool.until("an island with the spare machine", lambda: any(spare.id in one.members for one in stages(pool)))
        assert [stage.degree for stage in stages(pool)] == [2, 1, 2]
        assert pool.ask(requests) == expected
