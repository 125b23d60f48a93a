"""Texts of a step come by seed and step alone; every token but the first is predicted once in an epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidRequest
from muster.train.corpus import Corpus, deal
from tests.examples import examples


def corpus(tokens: int, length: int, seed: int = 0) -> Corpus:
    return Corpus(np.arange(tokens, dtype=np.uint32), length, seed)


@examples(50, deadline=None)
@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 7), st.integers(0, 3))
def test_an_epoch_predicts_every_token_that_fits_exactly_once(tokens: int, length: int, batch: int, seed: int) -> None:
    if tokens <= length:
        return
    made = corpus(tokens, length, seed)
    steps = -(-made.texts // batch)
    rows = torch.cat([made.batch(step, batch) for step in range(steps)])[: made.texts]
    assert sorted(rows[:, 1:].flatten().tolist()) == list(range(1, made.texts * length + 1))
    assert torch.equal(rows[:, 1:], rows[:, :-1] + 1)


def test_a_step_is_the_same_whenever_it_is_asked_for_and_epochs_differ() -> None:
    one, other = corpus(101, 5), corpus(101, 5)
    late = other.batch(7, 4)
    assert torch.equal(one.batch(7, 4), late)
    assert not torch.equal(one.batch(0, 20), one.batch(1, 20)), "the second epoch has an order of its own"
    assert not torch.equal(corpus(101, 5, seed=1).batch(0, 20), one.batch(0, 20))


def test_too_little_data_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="has 5 tokens, and one text needs 6"):
        corpus(5, 5)


@pytest.mark.parametrize("pipelines", [1, 2, 3])
def test_pipelines_get_all_texts_in_order(pipelines: int) -> None:
    texts = corpus(101, 5).batch(0, 8)
    dealt = deal(texts, 2, pipelines)
    assert len(dealt) == pipelines
    assert torch.equal(torch.cat([part for parts in dealt for part in parts]), texts)
