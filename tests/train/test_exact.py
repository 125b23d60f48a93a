"""However a run is cut, it computes what a plain loop of torch and transformers computes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from muster.model.weights import open_directory
from muster.spec.training import BatchTable, DataTable, OptimizerTable, TrainingRun
from muster.train.corpus import deal
from muster.train.local import LocalPipelines, build_places
from muster.train.rates import learning_rate
from muster.train.step import RunLayout
from tests.model.families import CPU, FAMILIES, LAYERS, VOCAB, dense_model, save

STEPS, SEQUENCES, LENGTH = 10, 2, 16
RUN = TrainingRun(
    model="m",
    out="o",
    steps=STEPS,
    data=DataTable(files=("none.txt",)),
    batch=BatchTable(sequences=SEQUENCES, length=LENGTH, microbatch=1),
    # Where the true gradient is zero, as of a key's bias, AdamW would make steps of the rounding.
    optimizer=OptimizerTable(learning_rate=1e-3, warm_up_steps=3, clip_norm=0.5, epsilon=1e-5),
)


def texts(step: int) -> Tensor:
    """The same few again and again, so that there is something to learn."""
    step %= 2
    return torch.randint(0, VOCAB, (SEQUENCES, LENGTH + 1), generator=torch.Generator().manual_seed(step))


def ours(path: Path, pipelines: int, stages: int, run: TrainingRun = RUN) -> tuple[list[float], dict[str, Tensor]]:
    places = build_places(open_directory(path), run, LAYERS, RunLayout(pipelines, stages), [CPU])
    pool = LocalPipelines(places)
    losses = []
    for step in range(run.steps):
        dealt = deal(texts(step), run.batch.microbatch, pipelines)
        losses.append(pool.step(step, dealt, SEQUENCES * LENGTH).loss)
    return losses, pool.tensors()


def plain(path: Path, run: TrainingRun = RUN) -> tuple[list[float], dict[str, Tensor]]:
    """What anybody would write."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    decayed = [weight for weight in model.parameters() if weight.dim() >= 2]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    options = run.optimizer
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(options.beta1, options.beta2), eps=options.epsilon)
    losses = []
    for step in range(run.steps):
        total = 0.0
        for ids in texts(step).split(run.batch.microbatch):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / (SEQUENCES * LENGTH)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(options, step, run.steps)
        adamw.step()
        adamw.zero_grad()
        losses.append(total)
    return losses, model.state_dict()


def assert_same(one: tuple[list[float], dict[str, Tensor]], other: tuple[list[float], dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, expected in other[1].items():
        difference = (one[1][name] - expected).norm() / expected.norm().clamp_min(1e-12)
        assert difference <= 1e-6, name


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "opt"])
def test_any_cut_gives_the_losses_and_weights_of_a_plain_loop(family: str, tmp_path: Path) -> None:
    path = save(dense_model(family), tmp_path)
    expected = plain(path)
    assert expected[0][-1] < expected[0][0]
    for stages in (1, 2, LAYERS):
        assert_same(ours(path, 1, stages), expected)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"llama-tied", "gpt2", "opt"}))
def test_other_families_agree_for_two_steps_as_well(family: str, tmp_path: Path) -> None:
    path, run = save(dense_model(family), tmp_path), RUN.model_copy(update={"steps": 2})
    assert_same(ours(path, 1, 2, run), plain(path, run))


@pytest.mark.parametrize("changes", [{"schedule": "gpipe"}, {"recompute": True}, {"microbatch": 2}])
def test_schedule_recomputing_and_microbatches_change_nothing(changes: dict[str, object], tmp_path: Path) -> None:
    path = save(dense_model("gpt2"), tmp_path)
    run = RUN.model_copy(update={"batch": RUN.batch.model_copy(update=changes), "steps": 2})
    assert_same(ours(path, 1, LAYERS, run), plain(path, run))


def test_two_pipelines_of_three_stages_agree_but_for_rounding_in_another_order(tmp_path: Path) -> None:
    path = save(dense_model("llama-tied"), tmp_path)
    losses, tensors = ours(path, 2, LAYERS)
    expected_losses, expected = plain(path)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, tensor in expected.items():
        assert torch.allclose(tensors[name], tensor, rtol=0, atol=1e-5), name


def test_mixed_precision_comes_close_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    path, run = save(dense_model("llama"), tmp_path), RUN.model_copy(update={"precision": "bfloat16"})
    losses, tensors = ours(path, 1, 2, run)
    assert losses == pytest.approx(plain(path)[0], rel=0.02)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
