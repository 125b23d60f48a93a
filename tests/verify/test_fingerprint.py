"""Fingerprints: both ends take the same bits, rounding is told from work left out, and nonsense is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.spec.receipt import VALUE_BYTES, VALUES_PER_TOKEN
from muster.verify.fingerprint import drift, key_of, opened, places, taken

KEY = key_of("ab" * 16, 3)
POSITIONS = list(range(64))


def rows(columns: int = 48) -> Tensor:
    return torch.randn(64, columns, generator=torch.Generator().manual_seed(1))


def drift_of(claimed: Tensor, truth: Tensor) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    where, dtype = places(KEY, POSITIONS, truth.shape[1]), str(claimed.dtype).removeprefix("torch.")
    return drift(opened(taken(claimed, where), dtype), truth, where, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_rows_do_not_drift_whatever_holds_them(dtype: torch.dtype) -> None:
    exact = rows().to(dtype)
    assert not drift_of(exact, exact).any()


@pytest.mark.parametrize("size", [0.003, 0.03, 0.3])
def test_drift_is_the_mean_size_of_the_error(size: float) -> None:
    truth = rows(512)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    assert drift_of(truth + size * noise, truth).mean() == pytest.approx(size * (2 / np.pi) ** 0.5 / 1.1, rel=0.2)


def test_a_channel_that_is_many_times_as_large_does_not_hide_the_others() -> None:
    truth = rows(64)
    noise = 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    large = torch.ones(64)
    large[5] = 1000.0
    assert (
        drift_of((truth + noise) * large, truth * large).mean() > 0.2 * drift_of(truth + noise, truth).mean() / 64**0.5
    )


def test_the_places_follow_from_request_layer_and_position_alone() -> None:
    some = places(KEY, POSITIONS, 1000)
    assert (places(KEY, POSITIONS[10:20], 1000) == some[10:20]).all()
    assert (places(key_of("ab" * 16, 4), POSITIONS, 1000) != some).mean() > 0.9
    assert (places(key_of("ac" * 16, 3), POSITIONS, 1000) != some).mean() > 0.9
    assert 0 <= some.min() <= some.max() < 1000
    assert len(np.unique(places(KEY, range(4000), 16))) == 16


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_infinitely_far_away(wrong: float) -> None:
    truth = rows()
    claimed = truth.clone()
    claimed[7] = wrong
    found = drift_of(claimed, truth)
    assert np.isinf(found[7])
    assert np.isfinite(np.delete(found, 7)).all()


@pytest.mark.parametrize("length", [0, 1, VALUE_BYTES * VALUES_PER_TOKEN + 1])
def test_values_of_an_absurd_length_are_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"has {length} bytes of values"):
        opened(bytes(length), "bfloat16")


def test_each_row_may_have_a_key_of_its_own() -> None:
    keys = [key_of("ab" * 16, layer) for layer in (1, 2, 3)]
    at_once = places(np.array(keys, dtype=np.uint64)[:, None], [7, 8, 9], 64)
    each = [places(key, [position], 64) for key, position in zip(keys, (7, 8, 9), strict=True)]
    assert (at_once == np.concatenate(each)).all()
