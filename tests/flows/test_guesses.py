"""A pool whose first stage has a small model beside it says the same in fewer passes, also when that machine dies."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.errors import InvalidRequest
from muster.head.model import load_draft, load_model
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from tests.flows.live_pool import LivePool


@pytest.fixture(scope="module")
def guessing_pool(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePool]:
    """The model guesses for itself, hence is always right."""
    with LivePool(tmp_path_factory.mktemp("guessing"), str(model_path), draft=str(model_path), patient=True) as pool:
        pool.until_serving(stages=4)
        yield pool


def requests(count: int) -> list[Request]:
    sampling = Sampling(max_tokens=40, temperature=0.8, ignore_eos=True)
    return [Request(f"g{i}", (5, 6, 7 + i), replace(sampling, seed=i)) for i in range(count)]


def guesses(status: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = status["jobs"][0]["pipelines"][0]["guesses"] or {}
    return found


def test_a_draft_model_saves_passes_and_changes_no_token(guessing_pool: LivePool, pool: LivePool) -> None:
    (one,) = requests(1)
    assert guessing_pool.ask([one]) == pool.ask([one])
    guessing_pool.until("figures in the status", lambda: bool(guesses(guessing_pool.service.status())))
    assert guesses(guessing_pool.status())["tokens_per_pass"] > 2


@pytest.mark.chaos
def test_a_repair_changes_no_token_of_streams_that_guess(guessing_pool: LivePool, pool: LivePool) -> None:
    some = requests(3)
    expected = pool.ask(some)
    before = guessing_pool.until_serving()
    guessing_pool.add_machine()
    first = guessing_pool.serving(0)
    guessing_pool.kill(first)
    guessing_pool.until_serving(without=[first], after=before.epoch)
    assert guessing_pool.ask(some) == expected


def test_a_model_with_other_tokens_may_not_guess(model_path: Path) -> None:
    model = load_model(str(model_path), "float32")
    try:
        with pytest.raises(InvalidRequest, match=r"tiny cannot guess for .*small: .*; give --draft a smaller model"):
            load_draft("tiny", model, "float32")
    finally:
        model.tokenizer.close()
