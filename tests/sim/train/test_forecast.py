from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidRequest
from muster.sim.train.forecast import train_forecast
from muster.sim.train.pipeline_costs import exchange_seconds
from muster.spec.plan import Plan
from muster.spec.pool import LinkSpeed
from muster.spec.workload import TrainWorkload
from tests.sim.rings import node, pipeline, pool, shape, trained

WORK = TrainWorkload(length=512, microbatch=1)
FREE = {"latency_s": 0.0, "bandwidth": 1e18}


def train_plan(*rows: str, microbatches: int = 8, **options) -> Plan:
    return trained(*(pipeline(list(names), microbatches=microbatches, **options) for names in rows))


def equal_stages(names: str, seconds: float) -> dict[str, float]:
    return dict.fromkeys(names, seconds)


@given(st.integers(1, 6), st.integers(1, 40), st.floats(0.01, 10))
def test_equal_stages_and_free_links_give_the_textbook_bubble(count, microbatches, seconds):
    names = "abcdef"[:count]
    fleet = pool(*map(node, names), **FREE)
    measured = equal_stages(names, seconds)
    for schedule in ("gpipe", "1f1b"):
        found = train_forecast(
            train_plan(names, microbatches=microbatches),
            fleet,
            shape(),
            replace(WORK, schedule=schedule),
            stage_seconds=measured,
        )
        assert found.pipeline_s == pytest.approx((count - 1 + microbatches) * seconds)
    pieces = train_forecast(
        train_plan(names, microbatches=microbatches * count),
        fleet,
        shape(),
        replace(WORK, schedule="interleaved"),
        stage_seconds=measured,
        chunks=4,
    )
    assert pieces.pipeline_s == pytest.approx((microbatches * count + (count - 1) / 4) * seconds)


def test_a_sharded_parameter_server_costs_what_dtfm_says():
    fleet = pool(*map(node, "abc"), links={("a", "b"): LinkSpeed(0.1, 1e6), ("b", "a"): LinkSpeed(0.1, 1e6)})
    three = train_plan("a", "b", "c")
    group = [(p.stages[0], n) for p, n in zip(three.pipelines, fleet.nodes, strict=True)]
    part = shape().weight_bytes(0, 16) / 3
    expected = 2 * (0.1 + part / 1e6) + 2 * (0.01 + part / 1.25e8)
    assert exchange_seconds(three, fleet, shape(), group, "sharded") == pytest.approx(expected)
    ring = 2 * 2 * (0.1 + part / 1e6)
    assert exchange_seconds(three, fleet, shape(), group, "ring") == pytest.approx(ring)
    assert exchange_seconds(three, fleet, shape(), group) == pytest.approx(min(expected, ring))


def test_a_late_exchange_is_what_the_step_waits_for():
    fleet = pool(*map(node, "abcd"), bandwidth=1e6)
    forecast = train_forecast(train_plan("ab", "cd", microbatches=2), fleet, shape(), replace(WORK, length=16))
    assert forecast.exchange_s > forecast.pipeline_s
    assert "exchange of gradients" in forecast.bottleneck
    assert forecast.step_s == pytest.approx(forecast.pipeline_s + forecast.exchange_s)


def test_memory_follows_the_schedule():
    fleet = pool(*map(node, "abcd"))

    def kept(schedule):
        found = train_forecast(train_plan("abcd", microbatches=16), fleet, shape(), replace(WORK, schedule=schedule))
        return [stage.cache_bytes for stage in found.stages]

    one = kept("1f1b")[3]
    assert kept("1f1b") == [4 * one, 3 * one, 2 * one, one]
    assert kept("gpipe") == [16 * one] * 4
    assert kept("interleaved")[0] > kept("1f1b")[0]


def test_the_slowest_link_is_named():
    fleet = pool(*map(node, "abc"), latency_s=0.0, links={("b", "c"): LinkSpeed(0.0, 1e5)})
    forecast = train_forecast(train_plan("abc"), fleet, shape(), WORK)
    assert forecast.bottleneck.startswith("The link b -> c")
    assert max(link.share for link in forecast.links) == pytest.approx(1.0, abs=0.2)


def test_pipelines_cut_differently_cannot_train_together():
    fleet = pool(*map(node, "abcd"))
    mixed = trained(pipeline("ab", cuts=[4]), pipeline("cd", cuts=[8]))
    with pytest.raises(InvalidRequest, match="cut at the same layers"):
        train_forecast(mixed, fleet, shape(), WORK)
