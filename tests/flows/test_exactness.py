"""Four stages behind sessions say what `transformers` says in one piece, and what one stage says, whatever runs beside.

Where the two best logits lie within 1e-4 of each other either token would be right; such cases are counted.
"""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from benchmarks.exactness import NEAR_TIE, generate, judge, load, sampled, serve
from benchmarks.workload import mixed_requests
from muster.spec.request import Request
from tests.flows.live_pool import LivePool


@pytest.fixture(scope="module")
def requests(dense: PreTrainedModel) -> list[Request]:
    return mixed_requests(12, 3, 120, 24, dense.config.vocab_size)


def test_greedy_tokens_are_those_of_the_model_in_one_piece(
    pool: LivePool, dense: PreTrainedModel, requests: list[Request]
) -> None:
    tokens = pool.ask(requests)
    ties = 0
    for request in requests:
        expected = generate(dense, request)
        if tokens[request.id] != expected:
            _, _, behind = judge(dense, request, tokens[request.id])
            assert behind <= NEAR_TIE, f"{request.id} chose a token that is {behind} behind the best"
            ties += 1
    print(f"{ties} of {len(requests)} requests parted at a near tie")
    assert ties <= 1


def test_seeded_tokens_depend_neither_on_the_batch_nor_on_the_split(
    pool: LivePool, model_path: Path, requests: list[Request]
) -> None:
    wanted = sampled(requests[:4])
    together = pool.ask(wanted)
    alone = pool.ask(wanted, at_once=False)
    one_stage = serve(load(model_path, 8, 1), wanted)
    assert together == alone == one_stage
