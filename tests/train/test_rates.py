"""The learning rate rises in a straight line and falls along half a cosine."""

import pytest

from muster.spec.training import OptimizerTable
from muster.train.rates import learning_rate


def test_it_rises_to_its_highest_and_falls_to_its_share() -> None:
    options = OptimizerTable(learning_rate=1.0, warm_up_steps=4, least_share=0.1)
    rates = [learning_rate(options, step, 104) for step in range(104)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[54] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_constant_rate_stays() -> None:
    options = OptimizerTable(learning_rate=0.5, schedule="constant")
    assert {learning_rate(options, step, 9) for step in range(9)} == {0.5}
