"""The same text twice, raw and packed: pieces that fit, and what a comparison of their logits says."""

from math import log

import pytest
import torch

from muster.errors import ProtocolViolation
from muster.serve.accept import check_step
from muster.serve.calibration import Comparison, pieces
from muster.wire.messages.generate import Row, Step
from tests.serve.fake_stage import FakeCache


def row(length: int, start: int = 0) -> Row:
    return Row(slot=0, start=start, length=length, pages=(0,), samples=0, scores=length)


def compared(raw_CV: torch.Tensor, packed_CV: torch.Tensor) -> Comparison:
    seen = Comparison()
    seen.begin(row(len(raw_CV)), raw=True)
    for piece_CV in raw_CV.split(3):
        seen.keep(piece_CV)
    seen.begin(row(len(raw_CV)), raw=False)
    for piece_CV in packed_CV.split(2):
        seen.compare(piece_CV)
    return seen


@pytest.mark.parametrize(
    ("pages", "page_size", "context", "at_once"), [(64, 16, 1024, 512), (7, 4, 512, 3), (2, 1, 9, 9)]
)
def test_pieces_cover_the_text_twice_on_pages_that_exist_and_do_not_meet(
    pages: int, page_size: int, context: int, at_once: int
) -> None:
    tokens, cache = range(200), FakeCache(pages, page_size)
    made = list(pieces(tokens, pages, page_size, context, at_once))
    for raw in (True, False):
        assert [token for piece in made if piece.raw == raw for token in piece.tokens] == list(tokens)
    used = [{page for piece in made if piece.raw == raw for page in piece.row.pages} for raw in (True, False)]
    assert used[0].isdisjoint(used[1])
    for number, piece in enumerate(made):
        assert piece.raw == (number % 2 == 0)
        assert piece.row.start + piece.row.length <= context
        check_step(Step(epoch=1, sequence=number, rows=(piece.row,)), cache, at_once)


def test_equal_logits_agree_and_diverge_by_nothing() -> None:
    logits_CV = torch.randn(20, 50)
    seen = compared(logits_CV, logits_CV + 7.0)
    assert seen.agreed == 20
    assert seen.divergence == pytest.approx(0.0, abs=1e-5)


def test_of_tokens_that_are_equally_likely_either_agrees() -> None:
    raw_CV = torch.tensor([[2.0, 2.0, 1.0], [2.0, 2.0, 1.0]])
    assert compared(raw_CV, torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.5, 1.0]])).agreed == 1


def test_the_divergence_is_that_of_the_distributions() -> None:
    raw_CV, packed_CV = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()
    seen = compared(raw_CV, packed_CV)
    assert seen.agreed == 0
    assert seen.divergence == pytest.approx(0.5 * log(3), rel=1e-5)


def test_logits_that_are_no_numbers_give_a_number() -> None:
    bad_CV = torch.tensor([[float("nan"), 1.0], [-float("inf"), 0.0]])
    assert 0.0 <= compared(torch.zeros(2, 2), bad_CV).divergence < 1e9
    assert 0.0 <= compared(bad_CV, torch.zeros(2, 2)).divergence < 1e9


def test_a_packed_piece_without_its_raw_one_is_refused() -> None:
    seen = compared(torch.zeros(4, 3), torch.zeros(4, 3))
    seen.end()
    with pytest.raises(ProtocolViolation, match="without its raw one"):
        seen.begin(row(4), raw=False)
    seen.begin(row(4), raw=True)
    with pytest.raises(ProtocolViolation):
        seen.begin(row(4, start=4), raw=False)
