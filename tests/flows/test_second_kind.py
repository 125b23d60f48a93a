"""One pool serves a model and does a kind of work that no part of it knows; both are lost and repaired side by side."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from muster.broker.events import Route
from muster.broker.pipelines.job import Job, JobModel, JobOptions
from muster.cost.memory import WorkspaceOptions
from muster.plan.quick.tables import PlanOptions
from muster.wire.messages.generate import EpochUnknown
from tests.broker.actors import shape
from tests.broker.one_layer_each import OneLayerEach
from tests.chaos.streams import Streams, requests, undisturbed
from tests.flows.live_pool import JOB, LivePool, Machine
from tests.node.echo import Echo, answer, echo_kinds, question

SHAPE = replace(
    shape(layers=3), name="echoes", dtype="float32", layer_bytes=(1000,) * 3, embedding_bytes=0, head_bytes=0
)
ECHOES = Job(
    "echoes",
    JobModel(SHAPE, manifest="ab" * 32, workspace=WorkspaceOptions(prefill_tokens=0, samples=1)),
    OneLayerEach(),
    options=JobOptions(min_nodes=4, settle_s=0.3, retry_s=0.1),
)
SERVING = replace(JOB, planning=PlanOptions(max_sequences=2))
"""So little cache that memory is left for the other job."""


def said(pool: LivePool, route: Route, tensor: torch.Tensor) -> Any:
    """What comes back of a tensor that goes through the three stages of this route."""

    async def ask() -> Any:
        channel = await pool.service.open(route.node, "data")
        await channel.send(*question(route.epoch, 0, tensor))
        step, payload = await channel.receive()
        await channel.close()
        return step if isinstance(step, EpochUnknown) else answer(step, payload)  # type: ignore[arg-type]

    return pool.run(ask())


def holder(pool: LivePool, node: str) -> Machine:
    return next(machine for machine in pool.machines if machine.id == node)


def held(machine: Machine) -> set[int]:
    return {stage.epoch for stage in machine.worker._stages.vitals(0).stages}


@pytest.mark.chaos
def test_a_second_kind_of_work_is_assigned_run_lost_repaired_and_dropped_beside_one_that_serves(
    model_path: Path, tmp_path: Path
) -> None:
    built: list[Echo] = []
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
    wanted = requests(vocab_size=332, count=2, tokens=30)
    expected = list(undisturbed(model_path, 8, wanted).values())
    with LivePool(tmp_path, str(model_path), options=SERVING, beside=(ECHOES,), kinds=echo_kinds(built)) as pool:
        pool.until_serving()
        first = pool.until_serving(stages=3, job="echoes")
        assert torch.equal(said(pool, first, tensor), tensor + 1 + 2 + 3)

        streams = Streams(pool, wanted)
        streams.until(0.3)
        lost = holder(pool, first.pipeline.nodes()[1])
        pool.kill(lost)
        second = pool.until_serving(stages=3, without=[lost], after=first.epoch, job="echoes")
        assert set(second.pipeline.nodes()) - set(first.pipeline.nodes()), "the fourth machine stood by"
        assert torch.equal(said(pool, second, tensor), tensor + 6)
        assert said(pool, replace(first, first=second.first), tensor) == EpochUnknown(epoch=first.epoch)
        assert streams.result() == expected
        assert all(echo.closed for echo in built if echo.epoch == first.epoch)

        pool.kill(holder(pool, second.pipeline.nodes()[2]))
        epochs = {echo.epoch for echo in built}
        pool.until("their release", lambda: not any(held(machine) & epochs for machine in pool.machines))
        pool.until("their end", lambda: all(echo.closed for echo in built))
        assert [job["reason"] for job in pool.status()["jobs"][1:]] == ["2 of 3 machines are here; join more."]
        assert Streams(pool, wanted, "at last-").result() == expected
