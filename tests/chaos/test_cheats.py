"""A machine of the ring sends nonsense. Requests end as if it had not been there, and nobody else takes the blame."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from msgspec import structs

from muster.node.runners.serve.first import FirstStage
from muster.node.runners.serve.later import LaterStage
from muster.spec.request import Request
from muster.wire.messages.generate import StepDone
from muster.wire.messages.placement import StageLost
from tests.chaos.streams import Streams
from tests.flows.live_pool import LivePool, Machine

Expected = list[list[int]]


def no_number(pool: LivePool) -> Machine:
    """A middle stage hands on a hidden state of NaN."""
    cheat = pool.serving(1)
    follower = runtime(cheat)._follower
    run = follower._stage.run

    def broken(*arguments: Any) -> torch.Tensor:
        return torch.full_like(run(*arguments), torch.nan)

    follower._stage.run = broken
    return cheat


def no_token(pool: LivePool) -> Machine:
    """The last stage answers with a token that does not exist."""
    cheat = pool.serving(-1)
    follower = runtime(cheat)._follower
    run = follower.run

    def broken(*arguments: Any) -> StepDone:
        done: StepDone = run(*arguments)
        return structs.replace(done, sampled=tuple(replace(one, token=10**6) for one in done.sampled))

    follower.run = broken
    return cheat


def too_many_tokens(pool: LivePool) -> Machine:
    """The first stage tells the head more than anybody asked for."""
    cheat = pool.serving(0)
    head: Any = runtime(cheat)
    deliver = head._deliver

    def broken(turn: Any) -> None:
        turn.progress = [*turn.progress, *(_long(progress) for progress in turn.progress)]
        deliver(turn)

    head._deliver = broken
    return cheat


def _long(progress: Any) -> Any:
    return type(progress)(progress.request_id, progress.index, progress.tokens * 10_000, progress.finish)


def runtime(machine: Machine) -> Any:
    (held,) = machine.worker._stages._held.values()
    assert isinstance(held.runner, FirstStage | LaterStage)
    return held.runner


def self_reports(pool: LivePool) -> list[str]:
    """Will be filled with the machines that report their own stage as broken."""
    seen: list[str] = []
    blame = pool.service._state.blame
    inner = blame.stage_lost

    def watched(member: Any, lost: StageLost, now_s: float) -> Any:
        if lost.peer == member.id:
            seen.append(member.id)
        return inner(member, lost, now_s)

    blame.stage_lost = watched  # type: ignore[method-assign]
    return seen


@pytest.mark.chaos
@pytest.mark.parametrize("cheat", [no_number, no_token, too_many_tokens])
def test_one_that_cheats_harms_no_request_and_no_honest_machine(
    pool: LivePool, wanted: Sequence[Request], expected: Expected, cheat: Callable[[LivePool], Machine]
) -> None:
    reports = self_reports(pool)
    streams = Streams(pool, wanted[:4])
    streams.until(0.1)
    culprit = cheat(pool)
    assert streams.result() == expected[:4]
    assert set(reports) <= {culprit.id}
    assert pool.sessions.state.resubmissions >= 1
