"""Adapters: only they learn, every cut gives the same ones, `peft` loads them, and merged they are in the model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from muster.errors import InvalidRequest
from muster.spec.training import LoraTable
from tests.train.runs import prepared, running, weights

pytest.importorskip("peft")
LORA = LoraTable(rank=4, alpha=8.0)
IDS = torch.arange(12)[None]


@pytest.mark.parametrize("family", ["llama-tied", "gpt2"])
def test_every_cut_learns_the_same_adapters_and_nothing_else(family: str, tmp_path: Path) -> None:
    one = running(prepared(tmp_path, family, lora=LORA))
    before = weights(one)
    expected = [one.step().loss for _ in range(4)]
    two = running(prepared(tmp_path, family, lora=LORA, stages=2))
    losses = [two.step().loss for _ in range(2)]
    two.save()
    three = running(prepared(tmp_path, family, lora=LORA, stages=3))
    losses += [three.step().loss for _ in range(2)]
    assert losses == pytest.approx(expected, rel=1e-6)
    learned = weights(three)
    for name, tensor in weights(one).items():
        assert torch.allclose(learned[name], tensor, rtol=0, atol=1e-6), name
        assert torch.equal(before[name], tensor) != ("lora_" in name), name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_was_learned_can_be_loaded_apart_and_is_merged_at_the_end(family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    run = running(prepared(tmp_path, family, lora=LORA, stages=2))
    for _ in range(3):
        run.step()
    out = run.finish()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / family, dtype=torch.float32)
    plain_logits = base(IDS).logits
    apart = PeftModel.from_pretrained(base, out / "adapter")(IDS).logits
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)(IDS).logits
    assert torch.allclose(merged, apart, atol=1e-4)
    assert not torch.allclose(merged, plain_logits, atol=1e-3)


def test_modules_that_the_layers_lack_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"no multiplication q_projector; choose among .*q_proj"):
        running(prepared(tmp_path, lora=LoraTable(modules=("q_projector",))))
