"""Machines of a pool train one model together, and it comes out as on a single machine."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from muster.errors import TrainingDiverged
from muster.model.shape import shape_of
from muster.spec.training import BatchTable, ExchangeTable, LinksTable
from muster.train.checkpoint import latest_checkpoint, read_checkpoint
from muster.train.instructions import Place
from muster.train.kept import without_steps
from muster.train.run import PreparedRun
from tests.flows.training_pool import training_machines, with_steps
from tests.model.families import FAMILIES
from tests.train.runs import LENGTH, prepared, running, weights


def four_layers(folder: Path, **changes: Any) -> PreparedRun:
    """From random weights, whose checkpoint before the first step a run on one machine writes."""
    config = FAMILIES["llama-tied"]()
    config.num_hidden_layers = 4
    words = config.to_json_string()
    shape = shape_of(words, "config.json", "float32")
    return replace(prepared(folder, None, "llama-tied", **changes), config_json=words, shape=shape)


@pytest.mark.parametrize("steps", [8, pytest.param(50, marks=pytest.mark.chaos)])
def test_four_stages_in_two_pipelines_train_as_one_machine_does(tmp_path: Path, steps: int) -> None:
    alone = running(four_layers(tmp_path, steps=steps))
    random = latest_checkpoint(alone.prepared.checkpoints, lambda words: None)
    assert random is not None
    expected = [alone.step().loss for _ in range(steps)]
    score = alone.evaluate()
    assert score is not None
    run = with_steps(four_layers(tmp_path), steps=steps, stages=4)

    async def body() -> None:
        async with training_machines(tmp_path, run, 8, base=random.path) as pool:
            assert await pool.losses(steps) == pytest.approx(expected, rel=1e-5)
            assert pool.head.training.rounds == 1
            assert set(pool.head.training.holders) == {Place(p, s) for p in range(2) for s in range(4)}
            assert run.held_out is not None
            found = await pool.head.training.score(run.held_out.all_texts(64))
            assert found.tokens == score.tokens
            assert found.loss == pytest.approx(score.loss, rel=1e-5)
            done, tensors, optimizer = await pool.head.training.state()
            assert done == steps
            for name, tensor in weights(alone).items():
                assert torch.allclose(tensors[name], tensor, rtol=0, atol=1e-5), name
            assert optimizer.keys() == alone._pipelines.optimizer_state().keys()

    asyncio.run(asyncio.wait_for(body(), 240))


def test_a_stage_that_is_lost_costs_a_step_at_most_and_changes_nothing(tmp_path: Path) -> None:
    """The newcomer gets weights and optimizer from whoever holds the same layers; later it is the only one left.

    Its last stage holds the embedding, too, under another name.
    """
    steps = 16
    alone = running(prepared(tmp_path, "llama-tied", steps=steps))
    expected = [alone.step().loss for _ in range(steps)]
    run = with_steps(prepared(tmp_path, "llama-tied"), steps=steps, stages=2)

    async def body() -> None:
        async with training_machines(tmp_path, run, 4) as pool:
            training = pool.head.training
            losses = await pool.losses(5)
            first = dict(training.holders)
            await pool.kill(first[Place(1, 1)])
            losses += await pool.losses(8)
            rounds = training.rounds
            pool.join("newcomer")
            while training.pipelines < 2:
                losses += await pool.losses(training.done + 1)
                assert training.done < steps - 2, "the newcomer was not taken in"
                await asyncio.sleep(0.3)
            assert training.rounds == rounds + 1, "the newcomer broke, and another came"
            await pool.kill(next(node for place, node in first.items() if place == Place(0, 0)))
            losses += await pool.losses(steps)
            assert losses == pytest.approx(expected, rel=1e-5)
            _, tensors, _ = await training.state()
            for name, tensor in weights(alone).items():
                assert torch.allclose(tensors[name], tensor, rtol=0, atol=1e-5), name

    asyncio.run(asyncio.wait_for(body(), 240))


def test_where_nobody_holds_a_lost_stage_all_go_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    steps = 8
    alone = running(prepared(tmp_path, steps=steps))
    expected = []
    for _ in range(steps):
        expected.append(alone.step().loss)
        if alone.done == 3:
            kept = read_checkpoint(alone.save())
    run = with_steps(prepared(tmp_path), steps=steps, stages=2)
    saved = [without_steps(run.source)]  # type: ignore[arg-type]

    async def body() -> None:
        async with training_machines(tmp_path, run, 2, saved=lambda: saved[-1]) as pool:
            training = pool.head.training
            assert await pool.losses(5) == pytest.approx(expected[:5], rel=1e-5)
            saved.append(kept)
            pool.join("standby")
            await pool.kill(training.holders[Place(0, 1)])
            assert await pool.losses(steps) == pytest.approx(expected[3:], rel=1e-5)

    asyncio.run(asyncio.wait_for(body(), 240))


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_stage(tmp_path: Path) -> None:
    run = with_steps(prepared(tmp_path), steps=4, stages=2)

    async def body() -> None:
        async with training_machines(tmp_path, run, 2) as pool:
            await pool.losses(1)
            _, worker, _ = pool.workers[pool.head.training.holders[Place(0, 1)]]
            (held,) = worker._stages._held.values()
            stage: Any = held.runner
            next(iter(stage._stage.parameters().values())).data[:] = torch.nan
            with pytest.raises(TrainingDiverged, match="stage 2 first made it, on the way forward"):
                await pool.losses(4)
            assert pool.head.training.done == 1

    asyncio.run(asyncio.wait_for(body(), 240))


def test_packed_links_and_local_steps_come_out_as_on_one_machine(tmp_path: Path) -> None:
    """AQ-SGD between stages, which needs equal memories at both ends, and DiLoCo between pipelines."""
    packed = {
        "links": LinksTable(forward="aq-4", backward="int8"),
        "exchange": ExchangeTable(every=2, codec="int8"),
        "batch": BatchTable(sequences=8, length=LENGTH, microbatch=2),
        "replicas": 2,
        "stages": 3,
        "steps": 12,
    }
    alone = running(prepared(tmp_path, **packed))
    expected = [alone.step().loss for _ in range(12)]
    run = with_steps(prepared(tmp_path, **packed))

    async def body() -> None:
        async with training_machines(tmp_path, run, 6) as pool:
            assert await pool.losses(12) == pytest.approx(expected, rel=1e-5)
            assert pool.head.training.rounds == 1
            _, tensors, optimizer = await pool.head.training.state()
            for name, tensor in weights(alone).items():
                assert torch.allclose(tensors[name], tensor, rtol=0, atol=1e-5), name
            assert any(name.startswith("outer.") for name in optimizer)

    asyncio.run(asyncio.wait_for(body(), 240))
