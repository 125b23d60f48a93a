"""Constants that come with Muster are those of the pool's devices, if all are of one kind."""

from muster.cost.measured import constants_for, constants_of, fitted
from muster.cost.pace import TYPICAL
from muster.spec.pool import Device, Node, Pool


def pool(*kinds: str) -> Pool:
    return Pool(tuple(Node(str(i), str(i), "", Device(kind, kind, 1)) for i, kind in enumerate(kinds)))


def test_a_pool_of_processors_is_forecast_with_what_was_measured_on_one() -> None:
    constants = constants_of(pool("cpu", "cpu"))
    assert constants == constants_for("cpu") != TYPICAL
    assert constants.step_s > 0


def test_what_nobody_measured_or_what_is_mixed_is_typical() -> None:
    assert constants_of(pool("cuda")) == TYPICAL
    assert constants_of(pool("cpu", "cuda")) == TYPICAL
    assert constants_of(pool()) == TYPICAL


def test_every_fit_says_how_good_it_is_and_where_it_was_made() -> None:
    for entry in fitted().values():
        assert 0 < entry.median_error <= entry.worst_error
        assert entry.measured_on
        assert entry.as_of
