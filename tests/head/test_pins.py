"""Plans that a head is given: what no pool can run is refused before any machine is waited for."""

from dataclasses import replace

import pytest

from muster.errors import Unsupported
from muster.head.pins import SavedPlan, pipelines_of_plan
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.plan_file import PlanFile
from muster.spec.pool import Device, Node, Pool
from muster.spec.workload import ServeWorkload
from tests.plan.test_joint import SHAPE

DEVICE = Device("cuda", "made up", 10**10)


def saved(degree: int) -> SavedPlan:
    nodes = (Node("box", "box", "", DEVICE, 4),)
    stages = (Stage("box", 0, SHAPE.num_layers, tuple(range(degree))),)
    plan = Plan(SHAPE.name, (Pipeline(stages, ServeSettings(8, 16, 1)),))
    return SavedPlan("plan.lock", PlanFile("throughput", 0, SHAPE, ServeWorkload(8, 8), Pool(nodes), plan))


def test_a_degree_at_which_the_model_cannot_be_cut_is_refused_with_those_that_would_do() -> None:
    with pytest.raises(Unsupported, match=r"over 3 devices and m cannot be cut so; degrees 2, 4 would do"):
        pipelines_of_plan(saved(3), SHAPE)
    with pytest.raises(Unsupported, match="its stages stay whole"):
        pipelines_of_plan(saved(2), replace(SHAPE, degrees=()))
    (pipeline,) = pipelines_of_plan(saved(2), SHAPE)
    assert pipeline.pins[0].devices == (0, 1)
