"""Packed links serve only after a check; what fails gives way to what is milder; what passed is remembered."""

from dataclasses import replace

from muster.broker.pipelines.codec_checks import CHECK_S
from muster.broker.pipelines.job import JobModel, JobOptions
from muster.broker.view import status_view
from muster.cost.codec_table import LINK_CODECS, codecs_called
from muster.plan.quick.tables import PlanOptions
from muster.spec.codec import Codec
from muster.wire.messages.calibrate import CheckCodecs, CodecsChecked
from muster.wire.messages.membership import PeerMeasured
from tests.broker.actors import SERVED, Actor, Stage

TEXT = tuple(range(900))
SLOW_BYTES_PER_S = 2e6
READ: JobModel = replace(SERVED, calibration=TEXT)


def pool(codecs: tuple[Codec, ...], served: JobModel = READ, bandwidth: float = SLOW_BYTES_PER_S) -> Stage:
    """Two machines that hold the model only together, on a link slow enough for codecs to matter."""
    stage = Stage(served=served, job=JobOptions(planning=PlanOptions(codecs=codecs)))
    first, second = stage.join(1, 700, 50.0), stage.join(2, 700, 50.0)
    for one, other in ((first, second), (second, first)):
        stage.tell(one, PeerMeasured(peer=other.id, round_trip_s=0.02, bandwidth_bytes_per_s=bandwidth))
    stage.pass_time(2)
    return stage


def asked(stage: Stage) -> list[tuple[Actor, CheckCodecs]]:
    return [(a, m) for a in stage.actors.values() for m in a.heard if isinstance(m, CheckCodecs)]


def on_links(stage: Stage) -> list[str]:
    placement = stage.lifecycle.pending or stage.lifecycle.serving
    assert placement is not None
    return [link.codec.name for link in placement.pipeline.codecs]


def answer(stage: Stage, agreed: int, divergence: float = 1e-5) -> None:
    actor, message = asked(stage)[-1]
    stage.tell(actor, CodecsChecked(epoch=message.epoch, positions=1000, agreed=agreed, divergence=divergence))


def test_a_ring_with_packed_links_serves_after_its_check_and_not_before() -> None:
    stage = pool(LINK_CODECS)
    ((_, message),) = asked(stage)
    assert message.tokens == TEXT
    assert stage.route is None
    assert on_links(stage) == ["int4"]
    answer(stage, agreed=996)
    assert stage.route is not None
    assert stage.route.epoch == message.epoch


def test_what_changes_too_much_gives_way_to_the_next_milder_until_nothing_is_packed() -> None:
    stage, tried = pool(LINK_CODECS), []
    while stage.route is None:
        tried += on_links(stage)
        answer(stage, agreed=994 if len(tried) % 2 else 1000, divergence=1e-5 if len(tried) % 2 else 2e-3)
        stage.pass_time(2)
    assert tried == ["int4", "int8"]  # in bfloat16 what is milder sends no less than raw values
    assert on_links(stage) == []
    assert len(asked(stage)) == 2


def test_a_codec_that_was_asked_for_and_changes_too_much_is_refused_by_how_much() -> None:
    stage = pool(codecs_called("int8"))
    answer(stage, agreed=979, divergence=0.004)
    stage.pass_time(60)
    assert stage.route is None
    assert len(asked(stage)) == 1
    for part in ("int8", "97.90%", "1000 positions", "99.5%", "0.004 nats", "0.001", "--codec bf16", "--codec auto"):
        assert part in stage.lifecycle.trouble


def test_a_check_that_does_not_end_counts_as_failed() -> None:
    stage = pool(codecs_called("int8"))
    stage.pass_time(CHECK_S + 2)
    assert "not found out" in stage.lifecycle.trouble


def test_what_passed_need_not_pass_again_where_it_did() -> None:
    stage = pool(LINK_CODECS)
    answer(stage, agreed=1000)
    before = stage.route
    stage.cut(stage.at(2))
    stage.join(2, 700, 50.0)
    stage.tell(
        stage.at(2), PeerMeasured(peer=stage.at(1).id, round_trip_s=0.02, bandwidth_bytes_per_s=SLOW_BYTES_PER_S)
    )
    stage.pass_time(5)
    assert stage.route is not None
    assert before is not None
    assert stage.route.epoch > before.epoch
    assert on_links(stage) == ["int4"]
    assert len(asked(stage)) == 1


def test_figures_that_nobody_asked_for_or_that_make_no_sense_change_nothing() -> None:
    stage = pool(LINK_CODECS)
    (actor, message) = asked(stage)[-1]
    other = next(a for a in stage.actors.values() if a is not actor)
    good = CodecsChecked(epoch=message.epoch, positions=1000, agreed=1000, divergence=0.0)
    stage.tell(other, good)
    assert stage.route is None
    stage.tell(actor, CodecsChecked(epoch=message.epoch, positions=10, agreed=11, divergence=0.0))
    assert stage.route is None
    assert not actor.alive


def test_without_a_text_to_judge_by_nothing_is_packed() -> None:
    stage = pool(LINK_CODECS, served=SERVED)
    assert stage.route is not None
    assert on_links(stage) == []


def test_the_status_has_the_links_and_the_figures() -> None:
    stage = pool(LINK_CODECS)
    answer(stage, agreed=0)
    stage.pass_time(2)
    answer(stage, agreed=999)
    view = status_view(stage.state)
    assert [link["codec"] for link in view["codecs"]] == ["int8"]
    assert [(check["codecs"], check["passed"]) for check in view["codec_checks"]] == [
        (["int4"], False),
        (["int8"], True),
    ]
    assert view["codec_checks"][1]["agreement"] == 0.999
