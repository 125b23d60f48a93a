"""The machine that chooses the tokens is lost in the middle of answers that keep to a form; nobody can tell."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from openai import OpenAI

from tests.flows.live_pool import LivePool

NUMBERS: Any = {"type": "array", "items": {"type": "integer", "maximum": 999}, "minItems": 12, "maxItems": 16}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": NUMBERS}}
STREAMS = 3


@pytest.mark.chaos
def test_the_last_machine_is_killed_in_the_middle_of_a_constrained_stream(pool: LivePool) -> None:
    client, model, under_way = pool.client(), pool.model.shape.name, Event()

    def stream(seed: int) -> str:
        said = ""
        for chunk in _chunks(client, model, seed):
            said += chunk.choices[0].delta.content or ""
            if len(said) > 8:
                under_way.set()
            finish = chunk.choices[0].finish_reason
        assert finish == "stop"
        return said

    with ThreadPoolExecutor(STREAMS) as threads:
        undisturbed = list(threads.map(stream, range(STREAMS)))
        assert all(12 <= len(json.loads(said)) <= 16 for said in undisturbed)
        victim = pool.serving(3)
        under_way.clear()
        streams = [threads.submit(stream, seed) for seed in range(STREAMS)]
        assert under_way.wait(60)
        pool.kill(victim)
        assert [one.result(90) for one in streams] == undisturbed
    pool.until_serving(without=[victim])
    assert pool.sessions.state.resubmissions >= 1


def _chunks(client: OpenAI, model: str, seed: int) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Count from {seed}."}],
        response_format=FORMAT,
        seed=seed,
        max_tokens=200,
        stream=True,
    )
