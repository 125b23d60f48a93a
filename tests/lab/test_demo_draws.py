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
from muster.serve.race import first_to_arrive

TINY = Path(muster.model.__file__).parent / "embedded" / "tiny"
NUM_TOKENS = next(field.default for field in fields(Rehearsal) if field.name == "max_tokens")
ROUNDING = 1e-5
"""Two rings of the same model differ by some 1e-6 in the logits."""
TRIALS = 16


@pytest.fixture(scope="module")
def dense() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@torch.no_grad()
def tipped(dense: torch.nn.Module, prompt: Prompt, num_tokens: int, rounding: float) -> int:
    """How many tokens would be others in one of some trials, if every logit were off by about `rounding`."""
    context = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(prompt.text).ids
    random = torch.Generator().manual_seed(0)
    new, past, count = context, None, 0
    for position in range(len(context), len(context) + num_tokens):
        output = dense(torch.tensor([new]), past_key_values=past, use_cache=True)
        past, logits_V = output.past_key_values, output.logits[0, -1].double()
        off_SV = torch.randn(TRIALS, len(logits_V), generator=random, dtype=torch.float64) * rounding
        off_SV[0] = 0.0
        logits_SV = logits_V + off_SV
        if prompt.temperature == 0.0:
            tokens = logits_SV.argmax(dim=-1).tolist()
        else:
            weights_SV = (logits_SV / prompt.temperature).softmax(dim=-1)
            tokens = first_to_arrive(weights_SV, [prompt.seed] * TRIALS, [position] * TRIALS)
        count += len(set(tokens)) > 1
        new = tokens[:1]
    return count


@pytest.mark.parametrize("prompt", demo_prompts(), ids=lambda prompt: prompt.name)
def test_no_token_of_the_demo_is_a_matter_of_rounding(dense: torch.nn.Module, prompt: Prompt) -> None:
    assert tipped(dense, prompt, NUM_TOKENS, ROUNDING) == 0


def test_tokens_that_were_a_matter_of_rounding_would_be_noticed(dense: torch.nn.Module) -> None:
    assert tipped(dense, demo_prompts()[-1], 32, rounding=0.3) > 0
