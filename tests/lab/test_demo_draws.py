"""The demo compares texts to the letter, so none of its draws may be so near a border that rounding decides it."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import muster.model
from muster.lab.rehearsal import Rehearsal
from muster.lab.stage_set import demo_prompts
from muster.lab.streams import Prompt
from muster.serve.generator import uniforms

TINY = Path(muster.model.__file__).parent / "embedded" / "tiny"
NUM_TOKENS = next(field.default for field in fields(Rehearsal) if field.name == "max_tokens")
AWAY = 1e-5
"""Two rings of the same model differ by some 1e-7 in the cumulated probabilities."""


@pytest.fixture(scope="module")
def dense() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@torch.no_grad()
def nearest_border(dense: torch.nn.Module, prompt: Prompt, num_tokens: int) -> float:
    """Of the draws in cumulated probability, or of the two best logits where the prompt is greedy."""
    context = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(prompt.text).ids
    new, past, nearest = context, None, 1.0
    for position in range(len(context), len(context) + num_tokens):
        output = dense(torch.tensor([new]), past_key_values=past, use_cache=True)
        past, logits_V = output.past_key_values, output.logits[0, -1].double()
        if prompt.temperature == 0.0:
            first, second = logits_V.topk(2).values.tolist()
            new, distance = [int(logits_V.argmax())], first - second
        else:
            borders_V = (logits_V / prompt.temperature).softmax(-1).cumsum(0)
            drawn = float(uniforms([prompt.seed], [position])[0])
            new, distance = [int((borders_V <= drawn).sum())], float((borders_V - drawn).abs().min())
        nearest = min(nearest, distance)
    return nearest


@pytest.mark.parametrize("prompt", demo_prompts(), ids=lambda prompt: prompt.name)
def test_no_draw_of_the_demo_is_a_matter_of_rounding(dense: torch.nn.Module, prompt: Prompt) -> None:
    assert nearest_border(dense, prompt, NUM_TOKENS) >= AWAY


def test_a_seed_with_a_draw_next_to_a_border_would_be_noticed(dense: torch.nn.Module) -> None:
    (pool,) = (prompt for prompt in demo_prompts() if prompt.name == "pool, sampled")
    assert nearest_border(dense, Prompt(pool.name, pool.text, pool.temperature, seed=9), NUM_TOKENS) < 1e-6
