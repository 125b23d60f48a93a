"""Which numbers a proof is about, and how far they may be. Needs no prover."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from muster.errors import InvalidRequest, ProtocolViolation
from muster.verify.disputes.interval import radii
from muster.verify.zk import tile
from muster.verify.zk.child import ChildLimits, ChildResult, WhyNot, run
from muster.verify.zk.fixed import MODULUS, check_range, from_words, product_error, rounded
from muster.verify.zk.transcript import shown
from tests.verify.zk.disputes import NAME, dispute, weights


def test_the_tile_is_around_the_worst_number() -> None:
    one = shown(dispute(weights(), lie=0.01))
    assert tile.worst_place(one, {NAME: weights()}, 4) == tile.TilePlace(1, 4, 8)
    assert tile.worst_place(one, {NAME: weights()}) == tile.TilePlace(1, 0, 12)
    assert tile.worst_place(one, {NAME: weights()}, 5) == tile.TilePlace(1, 5, 10)
    with pytest.raises(ProtocolViolation, match="other numbers"):
        tile.worst_place(one, {NAME: weights(1)}, 4)
    with pytest.raises(ProtocolViolation, match="does not have"):
        tile.given(one, tile.TilePlace(3, 0, 4))


def test_a_missing_or_changed_statement_is_told() -> None:
    entries = dispute(weights())
    with pytest.raises(ProtocolViolation, match="does not end"):
        shown(entries[:1])
    with pytest.raises(ProtocolViolation, match="does not end"):
        shown(entries[1:])
    other = dispute(weights(), lie=0.5)
    mixed = type(entries[1])(entries[1].signer, entries[1].body, entries[1].signature, other[1].tensors)
    with pytest.raises(ProtocolViolation, match="other tensors"):
        shown([entries[0], mixed])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_weights_the_interval_is_no_tighter_than_with_them(dtype: torch.dtype) -> None:
    one = shown(dispute(weights(dtype=dtype)))
    seen = tile.given(one, tile.TilePlace(1, 0, 12))
    x = torch.from_numpy(seen.x_K).to(dtype)
    center, proven, _ = radii(one.operator, {6: x}, {NAME: weights(dtype=dtype)}, dtype)
    assert (seen.radius(center.numpy(), float(weights(dtype=dtype).abs().max())) >= proven.numpy()).all()


def test_the_error_of_quantisation_is_bounded() -> None:
    random = np.random.default_rng(3)
    for bits in (6, 10, 20):
        x_K, w_RK = random.normal(size=50) * 3, random.normal(size=(40, 50))
        error = (
            w_RK @ x_K
            - np.array(
                [sum(a * b for a, b in zip(rounded(x_K, bits), rounded(row, bits), strict=True)) for row in w_RK]
            )
            / 4.0**bits
        )
        bound = product_error(x_K, float(np.abs(w_RK).max()), bits, bits)
        assert bound / 100 < np.abs(error).max() <= bound


def test_numbers_outside_the_quantised_range_are_refused() -> None:
    check_range(np.full(100, 10.0), 4.0, 36, 36)
    with pytest.raises(InvalidRequest, match="fewer bits"):
        check_range(np.full(100, 1e9), 4.0, 36, 36)
    with pytest.raises(InvalidRequest, match="not finite"):
        check_range(np.array([np.inf]), 4.0, 36, 36)


def test_words_of_the_field_are_read_as_signed_numbers() -> None:
    words = [number.to_bytes(32, "little").hex() for number in (5, MODULUS - 5, 0)]
    assert from_words(words) == [5, -5, 0]
    for wrong in (MODULUS.to_bytes(32, "little").hex(), "00", "zz" * 32):
        with pytest.raises(ValueError, match=r"field|hex"):
            from_words([wrong])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = bytearray(2**30)", "needs more than the 200 MB"),
        ("import time; time.sleep(9)", "not done after 1 s"),
        ("raise ValueError('broken')", "ValueError: broken"),
        ("print('words')", "nothing that can be read"),
        ("import os; os._exit(3)", "ended with code 3"),
    ],
)
def test_a_prover_that_does_not_get_there_says_why(code: str, says: str, tmp_path: Path) -> None:
    done = run([sys.executable, "-S", "-c", code], ChildLimits(200, 1.0), tmp_path)
    assert isinstance(done, WhyNot)
    assert says in done.reason


def test_what_a_prover_says_last_is_read_with_its_peak(tmp_path: Path) -> None:
    code = "import time; x = bytearray(50 * 2**20); print('on the way'); print('[1]', flush=True); time.sleep(0.1)"
    done = run([sys.executable, "-S", "-c", code], ChildLimits(400, 9.0), tmp_path)
    assert isinstance(done, ChildResult)
    assert done.said == [1]
    assert 50 < done.peak_mb < 100
