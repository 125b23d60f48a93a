"""HexGen's worked values, and what they mean for our own figures of the same example."""

import pytest

from muster.cost.memory import WorkspaceOptions, device_bytes
from muster.cost.named_shapes import named_shape
from tests.plan.serve.hexgen_cost import cost, gibibytes


@pytest.mark.parametrize(
    ("stages", "units", "memory"),
    [
        ([(48, 4), (20, 2), (12, 2)], 10.22, [18.2, 15.1, 9.1]),
        ([(44, 4), (20, 2), (16, 2)], 10.58, [None, None, 12.1]),
        ([(80, 8)], 3.85, [15.4]),
        ([(10, 1)] * 8, 28.99, [15.1] * 8),
    ],
)
def test_the_worked_costs_and_memory_of_its_formulas_are_reproduced(stages, units, memory):
    assert cost(stages) == pytest.approx(units, abs=0.005)
    for (layers, degree), wanted in zip(stages, memory, strict=True):
        if wanted is not None:
            assert gibibytes(layers, degree) == pytest.approx(wanted, abs=0.05)


def test_our_memory_of_a_stage_is_near_its():
    model = named_shape("llama-2-70b")
    for layers, degree in ((48, 4), (20, 2), (16, 2)):
        ours = sum(device_bytes(model, 10, 10 + layers, 160, WorkspaceOptions(prefill_tokens=32), degree)) / 2**30
        # Grouped queries and a wider feed-forward are not in its 12 H^2.
        assert ours == pytest.approx(gibibytes(layers, degree), rel=0.15)
