"""What a head serves in: the operator's word, else the plan's, else what the machines of the pool compute fastest."""

from dataclasses import replace

import pytest

from muster.cost.config_fields import Fields
from muster.cost.dtypes import possible_dtypes
from muster.errors import InvalidRequest
from muster.head.model import load_model
from muster.head.pins import SavedPlan, pipelines_of_plan
from muster.model.shape import shape_of
from muster.model.source import EMBEDDED
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.plan_file import PlanFile
from muster.spec.pool import Device, Node, Pool
from muster.spec.workload import ServeWorkload
from tests.head.test_link_port import OPTIONS

CONFIG = (EMBEDDED["tiny"] / "config.json").read_text()


def saved(dtype: str) -> SavedPlan:
    shape = shape_of(CONFIG, "tiny", dtype)
    pool = Pool((Node("a", "box", "here", Device("cpu", "d", memory_bytes=2**30)),))
    plan = Plan(
        "tiny",
        (Pipeline((Stage("a", 0, shape.num_layers),), ServeSettings(num_pages=8, page_size=16, num_microbatches=1)),),
    )
    return SavedPlan("p.lock", PlanFile("throughput", 0, shape, ServeWorkload(), pool, plan))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_plan_of_whatever_dtype_is_served_without_a_word(dtype: str) -> None:
    options = replace(OPTIONS, model="tiny", plan=saved(dtype))
    model = load_model("tiny", options.planned_dtype)
    assert [shape.dtype for shape in model.choices] == [dtype]
    assert options.plan is not None
    (planned,) = pipelines_of_plan(options.plan, model.shape)
    (pin,) = planned.pins
    assert (pin.node, pin.first, pin.last) == ("box", 0, model.shape.num_layers)


def test_the_operators_word_is_the_last() -> None:
    options = replace(OPTIONS, model="tiny", plan=saved("bfloat16"), dtype="float32")
    model = load_model("tiny", options.planned_dtype)
    assert options.plan is not None
    with pytest.raises(InvalidRequest, match="made for tiny in bfloat16, not for tiny in float32"):
        pipelines_of_plan(options.plan, model.shape)


def test_without_a_word_the_machines_have_the_choice() -> None:
    model = load_model("tiny", replace(OPTIONS, model="tiny").planned_dtype, max_context=100)
    assert tuple(shape.dtype for shape in model.choices) == possible_dtypes(Fields.parse(CONFIG))
    assert {shape.max_context for shape in model.choices} == {100}
