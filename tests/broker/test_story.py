"""The broker tells what it was told and what it did about it: enough to find a fault by, and nobody's secrets."""

import pytest

from muster.broker.events import Heard, Send, Tick, TicketIssued
from muster.wire.messages.placement import Loaded, Release
from tests.broker.actors import pool_of


def test_books_that_are_not_in_order_are_told_with_what_led_to_it() -> None:
    stage = pool_of(500, 500)
    serving = stage.lifecycle.serving
    assert serving is not None
    serving.loads.clear()
    with pytest.raises(AssertionError, match="somebody was forgotten") as failed:
        stage.state.check(stage.now_s)
    assert "Heard(connection=1, message=Loaded(epoch=1))" in str(failed.value)
    assert "-> RouteChanged(pipeline=PipelineId(job=model, number=0), route=Route(epoch=1" in str(failed.value)


def test_every_command_names_the_event_that_caused_it() -> None:
    stage = pool_of(500, 500)
    event = Heard(1, stage.at(1).beat(77))
    released = [command for command in stage.say(event) if isinstance(command, Send)]
    assert Release(epoch=77) in [command.message for command in released]
    assert all(command.cause is event for command in released)


def test_what_happens_all_the_time_leaves_room_for_what_matters() -> None:
    stage = pool_of(500, 500)
    stage.pass_time(600)
    told = [entry.event for entry in stage.state.story.entries]
    assert Heard(1, Loaded(epoch=1)) in told
    stage.say(Tick())
    assert stage.state.story.entries[-1].event == Tick(), "the last event is always told"


def test_the_secret_of_a_ticket_is_not_told() -> None:
    stage = pool_of(500, 500)
    stage.say(TicketIssued(b"open sesame", 2e9))
    assert "TicketIssued(secret=<11 bytes>, expires_s=2000000000.0)" in stage.state.story.tell()
    assert "sesame" not in stage.state.story.tell()
