"""A pool that runs offloads where nothing fits without, and refuses what its stages cannot do by name."""

from dataclasses import replace

import pytest

from muster.errors import DoesNotFit
from muster.plan.offload.live import offloading
from muster.plan.quick.planner import place
from muster.plan.quick.tables import PlanOptions
from muster.spec.few_bits import FewBits
from tests.plan.offload.small import machine, pool, shape

SMALL = pool(machine(device=45e6, host=0, disk=600e6, kind="cpu"))


def test_what_fits_nowhere_is_served_from_disk() -> None:
    made = offloading(place)(shape(), SMALL, None, PlanOptions())
    assert all(stage.memory.offloads for stage in made.only_pipeline.stages)


@pytest.mark.parametrize("changed", [{"few_bits": FewBits(weights="int4")}, {"packing": "gptq"}])
def test_few_bits_are_not_served_from_disk_and_it_says_so(changed: dict[str, object]) -> None:
    with pytest.raises(DoesNotFit, match="not served from disk yet"):
        offloading(place)(replace(shape(), **changed), SMALL, None, PlanOptions())  # type: ignore[arg-type]
