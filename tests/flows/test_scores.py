"""Scores of prompts from a pool of four stages are those of `transformers`, through the door and after a repair."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from openai import OpenAI
from transformers import PreTrainedModel

from muster.spec.request import Progress, Request
from muster.spec.sampling import Sampling
from tests.flows.live_pool import LivePool

PROMPT = "def main(): return 'the fox jumps over the dog' and then it sleeps. " * 3


@torch.inference_mode()
def expected(dense: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    return dense(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)


def test_an_echo_scores_prompts_as_transformers_does(client: OpenAI, pool: LivePool, dense: PreTrainedModel) -> None:
    tokenizer = pool.model.tokenizer
    prompts = [PROMPT, PROMPT[:40], "x", PROMPT]
    # Half of them find the beginning of others in the cache, and must not take it for their own scores.
    client.completions.create(model=pool.model.shape.name, prompt=PROMPT, max_tokens=1)
    answer = client.completions.create(model=pool.model.shape.name, prompt=prompts, max_tokens=0, echo=True, logprobs=3)
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        ids = tokenizer.encode(prompt)
        logprobs = expected(dense, ids)
        chosen = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist() if len(ids) > 1 else []
        assert choice.text == prompt
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(chosen, abs=1e-4)
        best = [max(top.values()) for top in choice.logprobs.top_logprobs[1:]]
        assert best == pytest.approx(logprobs.amax(-1).tolist(), abs=1e-4)


def test_streams_beside_it_say_what_they_say_alone(client: OpenAI, pool: LivePool) -> None:
    def ask(index: int) -> str:
        scores = {"echo": True, "logprobs": 1} if index % 2 else {}
        answer = client.completions.create(
            model=pool.model.shape.name, prompt=f"{index // 2} {PROMPT}", max_tokens=12, seed=3, **scores
        )
        return answer.choices[0].text.removeprefix(f"{index // 2} {PROMPT}")

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(ask, range(8)))
    assert texts[::2] == texts[1::2]


def test_after_a_repair_the_rest_of_the_scores_comes(pool: LivePool, dense: PreTrainedModel) -> None:
    """A repaired pipeline gets the request with the number of scores that the client has."""
    ids = pool.model.tokenizer.encode(PROMPT)
    whole = Request("whole", tuple(ids), Sampling(max_tokens=2, temperature=0.0, prompt_logprobs=0))

    async def ask(request: Request) -> list[Progress]:
        return [progress async for progress in pool.sessions.generate(request)]

    for known in (0, 1, 60):
        steps = pool.run(ask(replace(whole, id=f"from {known}", scored=known)))
        pieces = [progress.scores for progress in steps if progress.scores is not None]
        assert pieces[0].first == known + 1
        logprobs = np.concatenate([piece.logprobs for piece in pieces])
        chosen = expected(dense, ids).gather(1, torch.tensor(ids[1:])[:, None])[known:, 0]
        assert logprobs.tolist() == pytest.approx(chosen.tolist(), abs=1e-4)
