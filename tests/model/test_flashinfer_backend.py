"""The indices that FlashInfer is given mean what its documentation says; a stand-in on the CPU reads them."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from muster.model import flashinfer_backend
from muster.model.attention import Options, SdpaBackend
from muster.model.cache import HeadSizes
from muster.model.flashinfer_backend import FlashInferBackend, choose_backend, difference_from_reference

CPU = torch.device("cpu")
SIZES = HeadSizes(num_heads=2, key_size=64, value_size=64)


class StandIn:
    """Does by the book what `BatchPrefillWithPagedKVCacheWrapper` documents."""

    def __init__(self, workspace: Tensor, layout: str) -> None:
        assert layout == "NHD"
        self.plans = 0

    def plan(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options
        self.plans += 1
        for indptr in (arguments[0], arguments[1], arguments[3]):
            assert indptr.dtype == torch.int32
        assert options["q_data_type"] == options["kv_data_type"]

    def run(self, q: Tensor, caches: tuple[Tensor, Tensor]) -> Tensor:
        qo_indptr, kv_indptr, pages, last, heads, kv_heads, size, page_size = self.arguments
        assert q.shape[1:] == (heads, size)
        out = []
        for row in range(len(last)):
            own = pages[kv_indptr[row] : kv_indptr[row + 1]].long()
            length = (len(own) - 1) * page_size + int(last[row])
            assert 1 <= last[row] <= page_size
            k, v = (c[own].flatten(0, 1)[:length].repeat_interleave(heads // kv_heads, 1) for c in caches)
            queries = q[qo_indptr[row] : qo_indptr[row + 1]]
            scores = torch.einsum("tnd,lnd->ntl", queries.float(), k.float()) * self.options["sm_scale"]
            if self.options["logits_soft_cap"]:
                scores = torch.tanh(scores / self.options["logits_soft_cap"]) * self.options["logits_soft_cap"]
            at = torch.arange(length - len(queries), length)[:, None]
            hidden = torch.arange(length) > at
            if self.options["window_left"] >= 0:
                hidden |= torch.arange(length) < at - self.options["window_left"]
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            out.append(torch.einsum("ntl,lnd->tnd", weights, v.float()).to(q.dtype))
        return torch.cat(out)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FlashInferBackend:
    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(BatchPrefillWithPagedKVCacheWrapper=StandIn))
    monkeypatch.setattr(flashinfer_backend, "WORKSPACE_BYTES", 1)
    return FlashInferBackend(CPU)


def test_the_stand_in_agrees_with_the_reference(backend: FlashInferBackend) -> None:
    assert difference_from_reference(backend, SIZES, torch.bfloat16, CPU) < 0.02
    assert len(backend._wrappers) == 1


@pytest.mark.parametrize("options", [Options(0.1, window=5), Options(0.1, window=17), Options(0.2, softcap=2.0)])
def test_windows_and_soft_caps_are_passed_on(
    backend: FlashInferBackend, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flashinfer_backend, "Options", lambda scale: options)
    assert difference_from_reference(backend, SIZES, torch.bfloat16, CPU) < 0.02
    assert backend._wrappers


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [(SIZES, torch.float32), (HeadSizes(2, 48, 48), torch.bfloat16), (HeadSizes(2, 64, 128), torch.bfloat16)],
)
def test_what_the_kernels_do_not_know_goes_to_the_reference(
    backend: FlashInferBackend, sizes: HeadSizes, dtype: torch.dtype
) -> None:
    assert difference_from_reference(backend, sizes, dtype, CPU) == 0.0
    assert not backend._wrappers


def test_one_plan_serves_all_layers_of_a_step(backend: FlashInferBackend) -> None:
    difference_from_reference(backend, SIZES, torch.bfloat16, CPU)
    (wrapper,) = backend._wrappers.values()
    assert wrapper.plans == 1
    difference_from_reference(backend, SIZES, torch.bfloat16, CPU)
    assert wrapper.plans == 2


def test_the_reference_is_chosen_where_the_fast_path_is_absent_broken_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert isinstance(choose_backend(CPU, torch.bfloat16, (SIZES,)), SdpaBackend)
    monkeypatch.setattr(flashinfer_backend, "find_spec", lambda name: None)
    assert isinstance(choose_backend(cuda, torch.bfloat16, (SIZES,)), SdpaBackend)
    monkeypatch.setattr(flashinfer_backend, "find_spec", lambda name: object())
    assert isinstance(choose_backend(cuda, torch.float32, (SIZES,)), SdpaBackend)
    monkeypatch.setattr(flashinfer_backend, "FlashInferBackend", lambda device: 1 / 0)
    assert isinstance(choose_backend(cuda, torch.bfloat16, (SIZES,)), SdpaBackend)
    made = object()
    monkeypatch.setattr(flashinfer_backend, "FlashInferBackend", lambda device: made)
    for difference, chosen in [(0.01, True), (1.0, False), (float("nan"), False)]:
        monkeypatch.setattr(flashinfer_backend, "difference_from_reference", lambda *_, d=difference: d)
        assert (choose_backend(cuda, torch.bfloat16, (SIZES,)) is made) is chosen
