"""On a GPU the reference and the fast path agree with the dense model. Skipped, and said so, where there is no GPU."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from muster.model.attention import SdpaBackend
from muster.model.batch import Batch
from muster.model.cache import HeadSizes
from muster.model.flashinfer_backend import FlashInferBackend, choose_backend, difference_from_reference
from muster.model.rehearsal import NUM_PAGES, PAGE_SIZE, batches, sequences
from muster.model.stage import build_stage
from muster.model.weights import open_directory
from tests.model.families import FAMILIES, LAYERS, VOCAB, dense_model, save

if not torch.cuda.is_available():
    pytest.skip("NOT TESTED: no CUDA device here, so attention on a GPU remains unchecked", allow_module_level=True)

GPU = torch.device("cuda")


def to_gpu(batch: Batch) -> Batch:
    return Batch(
        batch.positions_T.to(GPU),
        batch.slots_T.to(GPU),
        batch.page_tables_RP.to(GPU),
        batch.query_lengths,
        batch.context_lengths,
        batch.logits_rows_S.to(GPU),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_on_the_gpu_gives_the_logits_of_the_dense_model(family: str, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    model = dense_model(family)
    save(model, tmp_path)
    stage = build_stage(open_directory(tmp_path), 0, LAYERS, torch.float32, GPU)
    cache = stage.new_cache(NUM_PAGES, PAGE_SIZE)
    tokens = sequences(VOCAB)
    with torch.inference_mode():
        expected = [model(input_ids=row[None], use_cache=False).logits[0] for row in tokens]
    for batch, rows, starts in batches():
        spans = [(row, start, n) for row, start, n in zip(rows, starts, batch.query_lengths, strict=True)]
        x = torch.cat([tokens[row][start : start + n] for row, start, n in spans]).to(GPU)
        wanted = torch.cat([expected[row][start : start + n] for row, start, n in spans])
        torch.testing.assert_close(stage.run(to_gpu(batch), cache, x).cpu(), wanted, rtol=0, atol=5e-5)


needs_flashinfer = pytest.mark.skipif(
    find_spec("flashinfer") is None, reason="NOT TESTED: FlashInfer is not installed (extra `cuda`)"
)


@needs_flashinfer
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flashinfer_agrees_with_the_reference(size: int, dtype: torch.dtype) -> None:
    backend = FlashInferBackend(GPU)
    assert difference_from_reference(backend, HeadSizes(2, size, size), dtype, GPU) < 0.02
    assert backend._wrappers


@needs_flashinfer
def test_flashinfer_is_chosen_on_a_gpu_in_bfloat16_only() -> None:
    sizes = (HeadSizes(8, 128, 128),)
    assert isinstance(choose_backend(GPU, torch.bfloat16, sizes), FlashInferBackend)
    assert isinstance(choose_backend(GPU, torch.float32, sizes), SdpaBackend)
