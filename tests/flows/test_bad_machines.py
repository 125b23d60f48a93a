"""Machines that nobody should trust come to a pool at work: each is told why it may not stay, and no stream notices."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from muster.errors import MusterError, NotAllowed, TicketInvalid, VersionMismatch
from muster.node.lending import WorkerOptions
from muster.node.loading import StageLoader
from muster.spec.pool import Device
from muster.wire.messages.base import PROTOCOL
from tests.flows.live_pool import LivePool, Machine, made_up, room_for

pytestmark = pytest.mark.usefixtures("undisturbed")
STREAMS, TOKENS = 4, 24


def read(pool: LivePool, client: OpenAI, seed: int) -> str:
    answer = client.completions.create(
        model=pool.model.shape.name, prompt="fox", seed=seed, max_tokens=TOKENS, extra_body={"ignore_eos": True}
    )
    return answer.choices[0].text


@pytest.fixture(scope="module")
def quiet(shared_pool: LivePool) -> list[str]:
    """What the streams say while nothing happens."""
    client = shared_pool.client(shared_pool.key)
    return [read(shared_pool, client, seed) for seed in range(STREAMS)]


@pytest.fixture
def undisturbed(pool: LivePool, client: OpenAI, quiet: list[str]) -> Iterator[None]:
    """Streams run all through the test, and end as on a quiet day, on the same pipeline."""
    before, resubmitted = pool.route(), pool.sessions.state.resubmissions
    with ThreadPoolExecutor(STREAMS) as threads:
        futures = [threads.submit(read, pool, client, seed) for seed in range(STREAMS)]
        yield
        assert [future.result() for future in futures] == quiet
    assert pool.route() == before
    assert pool.sessions.state.resubmissions == resubmitted


def end_of(pool: LivePool, machine: Machine) -> BaseException | None:
    """How a machine that may not stay ends."""

    async def end() -> BaseException | None:
        (result,) = await asyncio.gather(asyncio.wait_for(machine.task, 30), return_exceptions=True)
        return result

    result = pool.run(end())
    pool.machines.remove(machine)
    return result


def test_a_foreign_ticket(pool: LivePool) -> None:
    foreign = pool.add_machine(ticket=replace(pool.ticket, secret=b"x" * 32))
    error = end_of(pool, foreign)
    assert isinstance(error, TicketInvalid)
    assert str(error).startswith("This ticket is not of this pool; ask whoever runs the pool")


def test_an_expired_ticket(pool: LivePool) -> None:
    expired = pool.run(pool.service.issue_ticket(-1.0))
    error = end_of(pool, pool.add_machine(ticket=expired))
    assert isinstance(error, TicketInvalid)
    assert str(error).startswith("This ticket has expired; ask whoever runs the pool")


def test_another_protocol_version(pool: LivePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.node.worker.PROTOCOL", 99)
    error = end_of(pool, pool.add_machine())
    assert isinstance(error, VersionMismatch)
    assert str(error) == f"This node speaks protocol 99, the head {PROTOCOL}; update Muster on the head."


def test_a_banned_machine_that_comes_again(pool: LivePool) -> None:
    machine = pool.add_machine(max_layers=1)
    pool.until("its welcome", lambda: machine.id in pool.service._state.members.members)
    pool.run(pool.service.ban(machine.id))
    assert isinstance(end_of(pool, machine), NotAllowed)
    error = end_of(pool, pool.add_machine(name=machine.name))
    assert isinstance(error, NotAllowed)
    assert "is banned from this pool; ask whoever runs the pool" in str(error)


@pytest.mark.parametrize(
    "claim",
    [
        lambda device: replace(device, memory_bytes=2**60),
        *(
            pytest.param(claim, marks=pytest.mark.chaos)
            for claim in (
                lambda device: replace(device, memory_bytes=-1),
                lambda device: replace(device, flops_per_s={"float32": float("inf")}),
                lambda device: replace(device, flops_per_s={"float32": float("nan")}),
            )
        ),
    ],
    ids=["an exabyte", "less than nothing", "infinitely fast", "not a number"],
)
def test_a_claim_that_no_machine_can_make(pool: LivePool, claim: Callable[[Device], Device]) -> None:
    def measure(options: WorkerOptions) -> Device:
        return claim(made_up(options))

    error = end_of(pool, pool.add_machine(measure=measure))
    assert isinstance(error, MusterError)
    assert error.code == "protocol_violation"


def test_a_lie_about_memory_that_could_be_true(pool: LivePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It claims room for the whole model, and has room for one layer."""

    liar = pool.add_machine(max_layers=8, measure=in_a_flash)
    truth = room_for(pool.model.shape, 1, 0)

    def load(self: StageLoader, *arguments: Any) -> int:
        if self is liar.worker._loader:
            self._memory_cap_bytes = truth
        return check(self, *arguments)

    check = StageLoader._check_fits
    monkeypatch.setattr(StageLoader, "_check_fits", load)
    state = pool.service._state
    pool.until("being found out", lambda: state.members.record(liar.id, 0.0).cap_bytes is not None)
    found = next(node for node in pool.status()["nodes"] if node["id"] == liar.id)
    assert found["memory_bytes"] < liar.worker._options.memory_cap_bytes
    pool.kill(liar)


def test_a_machine_whose_disk_is_full(pool: LivePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no copy of the model and cannot keep what it fetches."""

    monkeypatch.setattr("pathlib.Path.open", refuse_to_append(Path.open))
    poor = pool.add_machine(max_layers=8, measure=in_a_flash)
    state = pool.service._state
    pool.until("its complaint", lambda: state.members.record(poor.id, 0.0).failures > 0)
    failure = "".join(lifecycle.failure for lifecycle in state.pipelines)
    assert "cannot be written (No space left on device); free disk space" in failure
    pool.kill(poor)


def in_a_flash(options: WorkerOptions) -> Device:
    """So fast that the broker wants it at once."""
    return replace(made_up(options), flops_per_s={"float32": 1e13}, memory_bandwidth_bytes_per_s=1e13)


def refuse_to_append(open_file: Callable[..., Any]) -> Callable[..., Any]:
    def opened(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_file(path, mode, *more, **options)

    return opened
