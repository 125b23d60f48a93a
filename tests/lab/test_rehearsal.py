"""The rehearsal's own logic, with children that only pretend: whom it kills, when, and how it judges the outcome."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from muster.errors import InvalidRequest, PoolUnavailable
from muster.lab.processes import Child, Event, WorkerSpec
from muster.lab.rehearsal import Outcome, Rehearsal, choose_victim, executioner, narrate, with_delays
from muster.lab.streams import Prompt, Stream

RING = [{"name": name, "region": region} for name, region in (("ada", "tokyo"), ("bob", "seoul"), ("cy", "singapore"))]
WORKERS = tuple(WorkerSpec(name, "tokyo", 10**6) for name in ("ada", "bob", "cy", "dan"))


class FakeChild:
    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.process = SimpleNamespace(pid=1)

    def kill(self) -> None:
        self.killed = True


class Silence:
    def say(self, sentence: str) -> None: ...

    def placement(self, title: str, stages: Any) -> None: ...

    def streams(self, streams: Any) -> None: ...


def children() -> list[Child]:
    return cast("list[Child]", [FakeChild(worker.name) for worker in WORKERS])


def stream(text: str, finish: str | None = "length", error: str | None = None) -> Stream:
    return Stream(Prompt("p", "x"), text, num_tokens=len(text), finish=finish, error=error)


def test_without_a_name_the_middle_of_the_ring_is_killed() -> None:
    assert choose_victim(None, RING, children()).name == "bob"
    assert choose_victim("ada", RING, children()).name == "ada"


def test_a_standby_or_a_stranger_is_not_killed() -> None:
    with pytest.raises(PoolUnavailable, match="standby"):
        choose_victim("dan", RING, children())
    with pytest.raises(InvalidRequest, match="choose from ada, bob, cy, dan"):
        choose_victim("eve", RING, children())


def test_the_victim_dies_once_enough_text_has_arrived_and_only_then() -> None:
    rehearsal = Rehearsal("tiny", WORKERS, (), None, "tokyo", kill_after=0.5)
    outcome = Outcome(calm=[stream("abcd"), stream("abcdef")])
    victim = children()[1]
    watch = executioner(rehearsal, outcome, victim, Silence())
    watch([stream("ab"), stream("ab")])
    assert not victim.killed
    watch([stream("ab"), stream("abc")])
    assert victim.killed


def test_the_record_counts_what_failed_and_what_is_identical() -> None:
    outcome = Outcome(
        calm=[stream("abc"), stream("def"), stream("ghi")],
        calm_s=2.0,
        disturbed=[stream("abc"), stream("dex"), stream("gh", finish=None, error="gone")],
        disturbed_s=4.0,
        killed="bob",
    )
    record = outcome.record(WORKERS)
    assert (record["requests"], record["requests_identical"], record["requests_failed"]) == (3, 1, 1)
    assert (record["tokens"], record["tokens_per_s"], record["killed"]) == (8, 2.0, "bob")
    assert record["undisturbed"] == {"tokens": 9, "tokens_per_s": 4.5}
    assert record["errors"] == ["gone"]
    assert [node["name"] for node in record["nodes"]] == ["ada", "bob", "cy", "dan"]


def test_delays_of_the_ring_are_those_of_the_scenario(tmp_path: Path) -> None:
    delays = [stage["latency_s"] for stage in with_delays(RING, "three-regions-20-80ms")]
    assert all(0.02 <= delay <= 0.08 for delay in delays)
    assert with_delays(RING, None) == RING


def test_the_farewells_after_the_last_stream_are_not_told() -> None:
    outcome, said = Outcome(), []

    class Head:
        async def follow(self) -> AsyncIterator[Event]:
            yield {"event": "left", "name": "bob"}
            outcome.after = RING
            yield {"event": "waiting", "reason": "No machine lends memory."}

    class Listener(Silence):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    anyio.run(narrate, cast("Child", Head()), Listener(), outcome)
    assert said == ["bob is gone"]


def test_what_is_done_is_told_from_the_first_step_on_and_without_advice_to_operators() -> None:
    said: list[str] = []

    class Head:
        async def follow(self) -> AsyncIterator[Event]:
            yield {"event": "reading", "model": "tiny"}
            yield {"event": "listening", "url": "http://127.0.0.1:1", "ticket": "muster1x"}
            yield {
                "event": "waiting",
                "reason": "The model needs 9 MB more; add a machine, or lend more with --memory.",
            }

    class Listener(Silence):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    anyio.run(narrate, cast("Child", Head()), Listener(), Outcome())
    assert said == [
        "the head reads tiny",
        "the head is at http://127.0.0.1:1 and has a ticket",
        "The model needs 9 MB more",
    ]
