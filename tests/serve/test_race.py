from collections import Counter

import numpy as np
import pytest
import torch

from muster.serve.generator import Noise
from muster.serve.race import BLOCK, _blocks, _draws, first_to_arrive


def weights(rows: int, size: int, spread: float, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    return (drawn * spread).softmax(dim=-1)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 30.0])
def test_no_token_that_would_win_is_left_out(spread):
    size = 5 * BLOCK
    one = weights(20, size, spread)
    seeds, positions = list(range(20)), list(range(100, 120))
    noise = Noise(seeds, positions)
    smallest_SC, place_SC = _blocks(noise, 5)
    every = [_draws(noise, np.full(size, row), np.arange(size), smallest_SC, place_SC) for row in range(20)]
    winners = (one.double().numpy() / np.stack(every)).argmax(axis=-1)
    assert first_to_arrive(one, seeds, positions) == winners.tolist()


def test_draws_follow_the_distribution():
    one = torch.zeros(1, 3 * BLOCK)
    one[0, 5], one[0, 6], one[0, 2 * BLOCK], one[0, 3 * BLOCK - 1] = 0.4, 0.1, 0.3, 0.2
    counts = Counter(first_to_arrive(one.expand(4000, -1), [7] * 4000, list(range(4000))))
    expected = {5: 1600, 6: 400, 2 * BLOCK: 1200, 3 * BLOCK - 1: 800}
    assert counts.keys() == expected.keys()
    assert sum((counts[token] - many) ** 2 / many for token, many in expected.items()) < 16.3  # p = 0.001


def test_draws_from_many_equal_tokens_are_even():
    counts = Counter(token // 16 for token in first_to_arrive(torch.ones(4096, 512), [1] * 4096, list(range(4096))))
    assert sum((counts[part] - 128) ** 2 / 128 for part in range(32)) < 61.1  # p = 0.001


def test_the_number_of_tokens_behind_does_not_matter():
    one = weights(30, 300, 3.0)
    wider = torch.nn.functional.pad(one, (0, 5000))
    assert first_to_arrive(one, [4] * 30, list(range(30))) == first_to_arrive(wider, [4] * 30, list(range(30)))


def test_two_models_that_nearly_agree_draw_the_same_token_nearly_always():
    one = weights(2000, 400, 3.0)
    other = (one.log() + torch.randn(one.shape, generator=torch.Generator().manual_seed(1)) * 0.1).softmax(dim=-1)
    apart = 0.5 * (one - other).abs().sum(dim=-1).mean().item()
    pairs = [first_to_arrive(some, [9] * 2000, list(range(2000))) for some in (one, other)]
    same = sum(a == b for a, b in zip(*pairs, strict=True)) / 2000
    assert same > (1 - apart) / (1 + apart) - 0.02  # the bound of Gumbel-max; independent draws would agree far less


def test_the_last_block_may_be_short_and_single_tokens_may_be_all_there_is():
    one = torch.zeros(2, BLOCK + 1)
    one[0, BLOCK], one[1, 0] = 1e-30, 1.0
    assert first_to_arrive(one, [1, 2], [0, 0]) == [BLOCK, 0]
