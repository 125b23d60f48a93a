"""A state machine's story names what happened and why, and never what people said."""

from dataclasses import dataclass
from typing import Any

import pytest

from muster.spec.request import Progress, Request, Sampled
from muster.spec.story import MAX_ENTRIES, Caused, Story, in_words
from muster.wire.messages.base import Address
from muster.wire.messages.generate import Submit, Tokens
from muster.wire.messages.membership import Heartbeat, Hello, StageVitals


@dataclass(frozen=True, slots=True)
class Heard:
    message: Any


@dataclass(frozen=True, slots=True)
class Say(Caused):
    message: Any


def test_a_command_carries_the_event_that_caused_it_and_is_equal_to_one_without() -> None:
    event = Heard("hello")
    (said,) = Story().add(1.0, event, [Say("welcome")])
    assert said.cause is event
    assert said == Say("welcome")
    match said:
        case Say(message):
            assert message == "welcome"


def test_only_the_last_few_hundred_events_are_kept() -> None:
    story = Story()
    for number in range(3 * MAX_ENTRIES):
        story.add(float(number), Heard(number), [])
    assert len(story.entries) == MAX_ENTRIES
    assert f"message={3 * MAX_ENTRIES - 1})" in story.tell()
    assert f"message={MAX_ENTRIES})" not in story.tell()


def test_a_failed_check_says_what_led_to_it() -> None:
    story = Story()
    story.add(12.5, Heard(Heartbeat(free_memory_bytes=7, stages=(StageVitals(3, 1),))), [Say("release")])
    with pytest.raises(AssertionError, match="the books differ") as failed, story.told():
        raise AssertionError("the books differ")
    words = str(failed.value)
    assert "12.500 s  Heard(message=Heartbeat(free_memory_bytes=7, stages=<1 items>" in words
    assert "-> Say(message=release)" in words


@pytest.mark.parametrize(
    "record",
    [
        Submit(epoch=1, request=Request("r", (424242, 424242), emitted=(424242,))),
        Tokens(epoch=1, progress=(Progress("r", 0, (Sampled(424242),)),)),
        Progress("r", 0, (Sampled(424242, top=()),)),
        Hello(protocol=1, version="1", name="n", region="", proof=b"424242", address=Address(node="a")),
        {"logit_bias": 424242},
        [424242],
        Heard(Heard(Heard(Heard(Heard(424242))))),
    ],
)
def test_neither_prompts_nor_tokens_nor_secrets_are_told(record: object) -> None:
    assert "424242" not in in_words(Heard(record))
