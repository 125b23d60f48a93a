"""A checkpoint goes on exactly, on another number of stages too; a broken or foreign one is told apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from muster.errors import InvalidRequest, MachineTrouble, TrainingDiverged
from muster.train.checkpoint import latest_checkpoint, write_checkpoint
from tests.train.runs import prepared, running, weights


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral"])
def test_a_run_goes_on_from_a_checkpoint_on_another_number_of_stages_exactly(family: str, tmp_path: Path) -> None:
    whole = running(prepared(tmp_path, family, out="other"))
    expected = [whole.step().loss for _ in range(6)]
    before = running(prepared(tmp_path, family, stages=2))
    losses = [before.step().loss for _ in range(3)]
    before.save()
    after = running(prepared(tmp_path, family, stages=3))
    assert after.done == 3
    losses += [after.step().loss for _ in range(3)]
    assert losses == pytest.approx(expected, rel=1e-6)
    for name, tensor in weights(whole).items():
        assert torch.allclose(weights(after)[name], tensor, rtol=0, atol=1e-6), name


def test_on_the_same_stages_it_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    whole = running(prepared(tmp_path, stages=2))
    losses = [whole.step().loss for _ in range(2)]
    whole.save()
    losses += [whole.step().loss for _ in range(2)]
    after = running(prepared(tmp_path, stages=2))
    assert [after.step().loss for _ in range(2)] == losses[2:]
    assert all(torch.equal(weights(after)[name], tensor) for name, tensor in weights(whole).items())


def test_plain_transformers_loads_a_checkpoint_and_the_end(tmp_path: Path) -> None:
    run = running(prepared(tmp_path, "llama-tied", stages=2))
    run.step()
    kept = AutoModelForCausalLM.from_pretrained(run.save(), dtype=torch.float32)
    assert all(torch.equal(kept.state_dict()[name], tensor) for name, tensor in weights(run).items())
    ended = AutoModelForCausalLM.from_pretrained(run.finish(), dtype=torch.float32)
    ids = torch.arange(12)[None]
    assert torch.equal(ended(ids).logits, kept(ids).logits)


def test_random_weights_are_the_same_for_every_cut_and_differ_by_seed(tmp_path: Path) -> None:
    def start(out: str, **changes: object) -> dict[str, torch.Tensor]:
        return weights(running(replace(prepared(tmp_path, None, **changes), out=tmp_path / out)))

    one, two, other = start("one"), start("two", stages=3), start("three", seed=1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_newest_whole_checkpoint_is_taken_and_the_broken_one_is_named(tmp_path: Path) -> None:
    run = running(prepared(tmp_path))
    run.step()
    run.save()
    run.step()
    newest = run.save()
    with (newest / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    told: list[str] = []
    found = latest_checkpoint(newest.parent, told.append)
    assert found is not None
    assert found.step == 1
    assert "step-00000002" in told[0]


def test_only_the_newest_stay(tmp_path: Path) -> None:
    run = running(prepared(tmp_path, keep_checkpoints=2))
    for _ in range(4):
        run.step()
        run.save()
    names = sorted(path.name for path in (tmp_path / "out/checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    run = running(prepared(tmp_path))
    run.step()
    run.save()

    def full(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(MachineTrouble, match="No space left"):
        write_checkpoint(tmp_path / "out/checkpoints", 2, {}, {}, full, keep=1)
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(("changes", "named"), [({"seed": 9}, "seed"), ({"family": "gpt2"}, "model")])
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(
    changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    run = running(prepared(tmp_path))
    run.step()
    run.save()
    with pytest.raises(InvalidRequest, match=f"another {named};"):
        running(prepared(tmp_path, **changes))


def test_a_loss_that_is_no_number_changes_nothing_and_names_the_stage(tmp_path: Path) -> None:
    run = running(prepared(tmp_path, stages=3))
    run.step()
    trainers = run._pipelines.trainers
    (middle,) = (trainer for place, trainer in trainers.items() if place.stage == 1)
    name = next(name for name in middle.parameters if name.endswith("down_proj.weight"))
    middle.parameters[name].data[0, 0] = torch.nan
    before = weights(run)
    with pytest.raises(TrainingDiverged, match="stage 2 first made it, on the way forward"):
        run.step()
    after = weights(run)
    assert all(torch.equal(before[key], after[key]) for key in before if key != name)
    assert run.done == 1
