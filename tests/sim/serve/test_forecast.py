from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.pace import TYPICAL
from muster.errors import DoesNotFit, InvalidRequest, PoolUnavailable
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.ring import BatchRules
from muster.spec.codec import Codec
from muster.spec.plan import CodedLink, Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import LinkSpeed
from muster.spec.workload import ServeWorkload
from tests.sim.rings import node, pipeline, plan, pool, shape

OFFLINE = ServeWorkload(prompt_tokens=256, output_tokens=128)


def ring_of(names: str, **options):
    return plan(pipeline(list(names), **options))


def deserve(latency_s: float, in_flight: int):
    """Eight L4 with ten layers each of Llama-3-70B, as published; the stage time is measured, not computed."""
    names = [f"l4-{i}" for i in range(8)]
    published = pipeline(names, 80, pages=10000, page_size=8, microbatches=in_flight, batch=75, swap_pages=2500)
    fleet = pool(*(node(name) for name in names), latency_s=latency_s, bandwidth=1e12)
    workload = ServeWorkload(prompt_tokens=128, output_tokens=128)
    return serve_forecast(plan(published), fleet, shape(80), workload, stage_seconds=dict.fromkeys(names, 0.168))


@pytest.mark.parametrize("latency_s", [0.0, 0.016, 0.032, 0.064])
def test_deserve_is_flat_in_latency_as_published(latency_s):
    assert deserve(latency_s, 20).tokens_per_s == pytest.approx(446, rel=0.002)


def test_deserve_at_256_ms_is_just_not_bubble_free():
    forecast = deserve(0.256, 20)
    assert forecast.tokens_per_s == pytest.approx(442, rel=0.002)
    assert "21 would" in forecast.bottleneck
    assert deserve(0.256, 21).tokens_per_s == pytest.approx(446, rel=0.002)


def test_more_steps_in_flight_never_hurt_a_slow_ring_and_end_at_the_slowest_stage():
    fleet = pool(*map(node, "abcd"), latency_s=0.05, bandwidth=1e9)
    rates = [
        serve_forecast(ring_of("abcd", microbatches=n, batch=8, pages=40_000), fleet, shape(), OFFLINE)
        for n in (4, 8, 16, 128)
    ]
    speeds = [forecast.tokens_per_s for forecast in rates]
    assert speeds == sorted(speeds)
    assert speeds[0] * 1.9 < speeds[1]
    assert max(stage.share for stage in rates[-1].stages) == pytest.approx(1.0)
    assert "busy 100% of the time" in rates[-1].bottleneck
    assert "latency" in rates[0].bottleneck


def test_a_thin_link_is_the_bottleneck_until_a_codec_thins_what_it_carries():
    fleet = pool(*map(node, "ab"), latency_s=0.001, links={("a", "b"): LinkSpeed(0.001, 1e6)})
    raw = ring_of("ab", microbatches=8, batch=8)
    forecast = serve_forecast(raw, fleet, shape(), OFFLINE)
    assert forecast.bottleneck.startswith("the link a -> b carries 100%")
    (link,) = [link for link in forecast.links if link.source == "a"]
    assert link.share == pytest.approx(1.0)
    coded = replace(raw, pipelines=(replace(raw.pipelines[0], codecs=(CodedLink("a", "b", Codec("four", 4.0)),)),))
    assert serve_forecast(coded, fleet, shape(), OFFLINE).tokens_per_s == pytest.approx(
        4 * forecast.tokens_per_s, rel=0.01
    )


def test_pages_bound_the_batch():
    fleet = pool(*map(node, "ab"))
    few = serve_forecast(ring_of("ab", pages=100), fleet, shape(), OFFLINE)
    many = serve_forecast(ring_of("ab", pages=1000), fleet, shape(), OFFLINE)
    assert many.tokens_per_s > 3 * few.tokens_per_s
    with pytest.raises(DoesNotFit, match="24 pages and pipeline 0 has 20"):
        serve_forecast(ring_of("ab", pages=20), fleet, shape(), OFFLINE)


def test_swap_adds_pages_at_the_price_of_host_bandwidth():
    fleet = pool(*map(node, "ab"), latency_s=0.5)
    plain = ring_of("ab", pages=1000, microbatches=16, batch=64)
    swapping = ring_of("ab", pages=1000, microbatches=16, batch=64, swap_pages=400)
    before, after = (serve_forecast(p, fleet, shape(), OFFLINE) for p in (plain, swapping))
    assert after.tokens_per_s > 4 * before.tokens_per_s
    slow_host = replace(
        fleet, nodes=tuple(replace(n, device=replace(n.device, host_bandwidth_bytes_per_s=1e8)) for n in fleet.nodes)
    )
    slowed = serve_forecast(swapping, slow_host, shape(), OFFLINE)
    assert slowed.tokens_per_s < after.tokens_per_s
    assert "host memory" in slowed.bottleneck
    assert min(stage.seconds for stage in slowed.stages) >= 400 * 16 * 8 * 4096 / 1e8


@given(st.floats(0.01, 0.99))
def test_a_pool_that_keeps_up_does_what_is_asked(share):
    fleet = pool(*map(node, "abcd"))
    both = plan(pipeline(["a", "b"], microbatches=6), pipeline(["c", "d"], microbatches=3))
    full = serve_forecast(both, fleet, shape(), OFFLINE)
    rate = share * full.capacity_tokens_per_s / 128
    asked = serve_forecast(both, fleet, shape(), replace(OFFLINE, requests_per_s=rate, deadline_s=60.0))
    assert asked.tokens_per_s == pytest.approx(rate * 128)
    assert asked.capacity_tokens_per_s == full.capacity_tokens_per_s
    # Those that come at random are sometimes more than can run, in rows that do not fill their steps.
    assert asked.seconds_per_token <= full.seconds_per_token * 1.03
    assert all(stage.share < 1 for stage in asked.stages)
    assert 0 <= asked.attainment <= 1
    assert "keeps up" in asked.bottleneck


def test_a_request_alone_takes_as_long_as_the_ring_is_round():
    fleet = pool(*map(node, "abcd"), latency_s=0.1, bandwidth=1e12)
    forecast = serve_forecast(ring_of("abcd"), fleet, shape(), replace(OFFLINE, requests_per_s=1e-6))
    assert forecast.seconds_per_token == pytest.approx(0.4 + sum(stage.seconds for stage in forecast.stages), rel=1e-3)
    assert forecast.request_s == pytest.approx(forecast.time_to_first_token_s + 127 * forecast.seconds_per_token)


def test_every_message_costs_its_ends_some_time():
    fleet, alone = pool(*map(node, "abcd"), latency_s=0.1), replace(OFFLINE, requests_per_s=1e-6)
    before, after = (
        serve_forecast(ring_of("abcd"), fleet, shape(), alone, replace(TYPICAL, message_s=seconds)).seconds_per_token
        for seconds in (0.0, 0.01)
    )
    assert after - before == pytest.approx(4 * 0.01, rel=1e-3)


def test_an_overloaded_pool_says_so():
    forecast = serve_forecast(
        ring_of("ab"), pool(*map(node, "ab")), shape(), replace(OFFLINE, requests_per_s=1e6, deadline_s=10.0)
    )
    assert forecast.tokens_per_s == pytest.approx(forecast.capacity_tokens_per_s)
    assert forecast.request_s == inf
    assert forecast.attainment == 0
    assert "more than the pool can answer" in forecast.bottleneck


def test_attainment_falls_with_the_deadline():
    fleet, two = pool(*map(node, "ab")), ring_of("ab")
    rate = 0.97 * serve_forecast(two, fleet, shape(), OFFLINE).capacity_tokens_per_s / 128
    found = [
        serve_forecast(two, fleet, shape(), replace(OFFLINE, requests_per_s=rate, deadline_s=deadline_s)).attainment
        for deadline_s in (0.01, 15, 18, 30, 1e4)
    ]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == pytest.approx(1)


def test_memory_is_counted_per_device():
    whole = Stage("a", 0, 16)
    split = replace(whole, devices=(0, 1))
    fleet = pool(node("a", devices=2))
    one, two = (
        serve_forecast(
            Plan("model", (Pipeline((stage,), ServeSettings(1000, 16, 1)),)), fleet, shape(), OFFLINE
        ).stages[0]
        for stage in (whole, split)
    )
    assert two.weights_bytes * 2 == pytest.approx(one.weights_bytes, abs=2)
    assert two.cache_bytes * 2 == one.cache_bytes == 1000 * 16 * 16 * 4096
    assert one.headroom_bytes == one.cap_bytes - one.weights_bytes - one.cache_bytes - one.other_bytes


def test_a_smaller_prompt_budget_lowers_what_long_prompts_get():
    fleet = pool(*map(node, "ab"))
    long = ServeWorkload(prompt_tokens=2000, output_tokens=20)
    roomy = serve_forecast(ring_of("ab"), fleet, shape(), long)
    tight = serve_forecast(ring_of("ab"), fleet, shape(), long, rules=BatchRules(prefill_tokens=64))
    assert tight.tokens_per_s < roomy.tokens_per_s


def test_what_cannot_be_is_refused_in_a_sentence():
    fleet = pool(*map(node, "ab"))
    with pytest.raises(InvalidRequest, match="which the pool has not"):
        serve_forecast(ring_of("ax"), fleet, shape(), OFFLINE)
    with pytest.raises(InvalidRequest, match="at least one prompt"):
        serve_forecast(ring_of("ab"), fleet, shape(), ServeWorkload(prompt_tokens=0))
    with pytest.raises(InvalidRequest, match="give a rate above 0"):
        serve_forecast(ring_of("ab"), fleet, shape(), ServeWorkload(requests_per_s=0))
    broken = replace(fleet, links={("a", "b"): LinkSpeed(0.01, 0.0)})
    with pytest.raises(PoolUnavailable, match="a -> b is down"):
        serve_forecast(ring_of("ab"), broken, shape(), OFFLINE)


def test_the_bottleneck_is_on_the_pipeline_that_answers_most():
    fleet = pool(node("fast", speed=50.0), node("slow", speed=0.3))
    both = plan(*(pipeline([name], pages=4096, batch=8) for name in ("slow", "fast")))
    assert "on fast" in serve_forecast(both, fleet, shape(), OFFLINE).bottleneck
