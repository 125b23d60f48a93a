"""Tokens that were drawn from nearly the same logits come out again; those of another sampler do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from muster.serve.redraw import redraw
from muster.serve.sampling import Sampler
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import Admit

COUNT, VOCABULARY = 64, 300
LOGITS = 3 * torch.randn(COUNT, VOCABULARY, generator=torch.Generator().manual_seed(4))
ASKED = Sampling(max_tokens=COUNT, seed=11, temperature=0.9, top_p=0.95)


def drawn(sampling: Sampling, logits_SV: torch.Tensor = LOGITS) -> list[int]:
    sampler = Sampler()
    sampler.admit(Admit(0, (1, 2, 3), 3, sampling))
    return [sampler.sample(row[None], [0])[0].token for row in logits_SV]


def test_the_same_logits_draw_the_same_tokens() -> None:
    assert not redraw(LOGITS, drawn(ASKED), ASKED, 3).margins_S.any()
    greedy = replace(ASKED, temperature=0.0)
    assert not redraw(LOGITS, drawn(greedy), greedy, 3).margins_S.any()


def test_rounding_leaves_small_margins() -> None:
    rounded = LOGITS.bfloat16().float()
    margins = redraw(LOGITS, drawn(replace(ASKED, top_p=1.0), rounded), replace(ASKED, top_p=1.0), 3).margins_S
    assert margins.max() < 0.05


@pytest.mark.parametrize("cut", [{"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.05}])
def test_rounding_at_the_edge_of_what_is_cut_off_leaves_small_margins(cut: dict[str, float]) -> None:
    asked = replace(ASKED, **{"top_p": 1.0} | cut)
    for seed in range(4):
        close_SV = LOGITS + 0.02 * torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(seed))
        assert redraw(LOGITS, drawn(asked, close_SV), asked, 3).margins_S.max() < 0.2


@pytest.mark.parametrize("other", [{"seed": 12}, {"temperature": 0.0}, {"temperature": 0.4}, {"top_p": 1.0}])
def test_another_sampler_leaves_large_ones(other: dict[str, float]) -> None:
    found = redraw(LOGITS, drawn(replace(ASKED, **other)), ASKED, 3)
    assert found.margins_S.max() > 0.3


def test_luck_is_counted_in_standard_deviations() -> None:
    honest = redraw(LOGITS, drawn(replace(ASKED, top_p=1.0)), replace(ASKED, top_p=1.0), 3).surprise_S
    greedy = redraw(LOGITS, drawn(replace(ASKED, temperature=0.0)), ASKED, 3).surprise_S
    assert abs(honest.sum()) / COUNT**0.5 < 4
    assert greedy.sum() / COUNT**0.5 > 5
    assert np.isfinite(honest).all()
