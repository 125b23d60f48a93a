"""A pool whose machines are strangers: all of them show what they claim, and it serves and repairs itself like any."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muster.node.lending import WorkerOptions
from muster.spec.pool import Device
from muster.spec.request import Request
from tests.chaos.streams import Streams, requests, undisturbed
from tests.flows.live_pool import LivePool, made_up

WATCHED_S = 2.5
"""Looks for something better come every second here."""


@pytest.fixture(scope="module")
def strangers(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePool]:
    with LivePool(tmp_path_factory.mktemp("strangers"), str(model_path), strangers=True) as pool:
        pool.until_serving(stages=4)
        yield pool


@pytest.fixture(scope="module")
def wanted() -> list[Request]:
    return requests(vocab_size=332, count=4, tokens=40)


def wonder(options: WorkerOptions) -> Device:
    return Device("cpu", "wonder", 64 * 2**40, {"float32": 1e18, "bfloat16": 1e18}, 1e14, 1e14, 1e14)


def test_honest_machines_have_shown_what_they_claim_and_serve(strangers: LivePool) -> None:
    nodes = [node for node in strangers.status()["nodes"] if node["state"] == "serving"]
    assert {(node["trust"], node["doubt"]) for node in nodes} == {("established", "")}
    for member in strangers.service._state.members:
        machine = next(machine for machine in strangers.machines if machine.id == member.id)
        assert member.claimed is not None
        claimed = made_up(machine.worker._options)
        assert member.device == replace(claimed, memory_bytes=member.claimed.memory_bytes)


def test_a_liar_about_its_size_does_not_serve_before_it_has_shown_anything(strangers: LivePool) -> None:
    before = strangers.until_serving(stages=4)
    liar = strangers.add_machine(name="liar", measure=wonder)
    liar.worker._free_memory_bytes = lambda: 64 * 2**40  # type: ignore[method-assign]
    held: list[int] = []

    async def watch() -> None:
        for _ in range(int(WATCHED_S / 0.05)):
            held.extend(liar.worker._state.stages)
            await asyncio.sleep(0.05)

    strangers.until("the claim", lambda: liar.id in strangers.service._state.members.members)
    strangers.run(watch())
    said = next(node for node in strangers.status()["nodes"] if node["id"] == liar.id)
    strangers.kill(liar)
    assert held == []
    assert said["state"] == "proving"
    assert "65,536 GiB of memory" in said["doubt"]
    assert strangers.until_serving(stages=4) == before


@pytest.mark.chaos
def test_a_stranger_that_stands_by_helps_when_a_machine_is_killed(
    strangers: LivePool, model_path: Path, wanted: list[Request]
) -> None:
    expected = list(undisturbed(model_path, 8, wanted).values())
    strangers.add_machine(name="standby")
    strangers.until(
        "a standby", lambda: any(node["state"] == "standby" for node in strangers.service.status()["nodes"])
    )
    victim = strangers.serving(1)
    streams = Streams(strangers, wanted)
    streams.until(0.3)
    strangers.kill(victim)
    assert streams.result() == expected
    strangers.until_serving(without=[victim])
