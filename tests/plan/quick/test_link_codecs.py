"""A link gets a codec where it is slower than the slowest stage, and the mildest that is not."""

from dataclasses import replace

import pytest

from muster.cost.codec_table import LINK_CODECS, codecs_called
from muster.cost.codecs import message_bytes
from muster.errors import InvalidRequest
from muster.plan.quick.link_codecs import codecs_of
from muster.plan.quick.planner import as_plan
from muster.plan.quick.tables import PlanOptions
from muster.sim.serve.ring import Ring
from muster.spec.codec import RAW
from muster.spec.plan import Plan, Stage
from muster.spec.pool import LinkSpeed, Node, Pool
from tests.broker.actors import measured, node_id, shape

AUTO = PlanOptions(codecs=LINK_CODECS)
SHAPE = replace(shape(), dtype="float32")
SLOWEST_S = 0.02


def named(times_slower: list[float], dtype: str = "float32", options: PlanOptions = AUTO) -> list[str]:
    """The codecs of links that would take so many times as long as the slowest stage with raw values."""
    model = replace(SHAPE, dtype=dtype)
    raw = message_bytes(model, options.batch)
    links = [LinkSpeed(0.05, raw / (times * SLOWEST_S)) for times in times_slower]
    return [codec.name for codec in codecs_of(model, links, SLOWEST_S, options)]


def test_each_link_gets_the_mildest_codec_that_removes_the_bottleneck() -> None:
    assert named([0.5, 1.0, 1.9, 3.5, 7.0]) == ["raw", "raw", "fp16", "int8", "int4"]


def test_where_no_codec_is_enough_the_slowest_link_gets_the_strongest_and_others_what_keeps_its_pace() -> None:
    assert named([40.0, 9.0, 1.5]) == ["int4", "fp16", "raw"]


def test_what_sends_no_less_than_raw_values_is_not_chosen() -> None:
    assert named([1.5, 0.9], "bfloat16") == ["int8", "raw"]


def test_a_codec_that_is_asked_for_is_on_every_link() -> None:
    assert named([0.1, 5.0], options=PlanOptions(codecs=codecs_called("bf16"))) == ["bf16", "bf16"]
    assert named([0.1, 5.0], options=PlanOptions(codecs=codecs_called("raw"))) == ["raw", "raw"]


def test_a_codec_that_there_is_not_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidRequest, match="auto, fp32, raw, fp16, bf16, int8, int4"):
        codecs_called("zip")


def plan(options: PlanOptions, bandwidth: float) -> tuple[Plan, Pool]:
    nodes = tuple(Node(node_id(i), f"n{i}", "", measured(900, 50.0).device) for i in (1, 2))
    links = {(a.id, b.id): LinkSpeed(0.03, bandwidth) for a in nodes for b in nodes if a != b}
    pool = Pool(nodes=nodes, links=links)
    stages = (Stage(node_id(1), 0, 4), Stage(node_id(2), 4, 8))
    return as_plan(SHAPE, pool, stages, 128, options, ""), pool


def test_a_plan_says_what_its_links_carry_and_is_faster_for_it() -> None:
    packed, pool = plan(AUTO, 2.5e6)
    plain, _ = plan(PlanOptions(), 2.5e6)
    (link,) = packed.only_pipeline.codecs
    assert (link.source, link.target) == (node_id(1), node_id(2))
    assert link.codec.name == "int4"
    assert packed.step_seconds < plain.step_seconds
    ring = Ring(packed, 0, pool, SHAPE, AUTO.constants)
    assert ring.hops[0].token_bytes == pytest.approx(SHAPE.hidden_size * 4.125 / 8, rel=0.01)
    assert ring.hops[1].token_bytes == 0


def test_links_that_do_not_hold_up_the_ring_stay_as_they_are() -> None:
    packed, _ = plan(AUTO, 1e12)
    assert packed.only_pipeline.codecs == ()
    assert RAW in AUTO.codecs
