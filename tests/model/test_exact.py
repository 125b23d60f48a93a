"""However a model is cut, its logits are those of the whole model."""

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from muster.model.batch import Batch
from muster.model.rehearsal import LENGTHS, NUM_PAGES, PAGE_SIZE, batches, largest_difference, run_stages, sequences
from muster.model.stage import Stage, build_stage
from muster.model.weights import open_directory
from tests.model.families import CPU, FAMILIES, LAYERS, VOCAB, WINDOW, dense_model, save

SPLITS = [(0, *inner, LAYERS) for count in range(LAYERS) for inner in combinations(range(1, LAYERS), count)]


def stages_of(path: Path, cuts: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Stage]:
    weights = open_directory(path)
    return [build_stage(weights, first, last, dtype, CPU) for first, last in pairwise(cuts)]


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model = dense_model(request.param)
    return model, save(model, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(
    "splits",
    [
        pytest.param([SPLITS[0], SPLITS[-1]], id="one stage, and one for each layer"),
        pytest.param(SPLITS[1:-1], id="between", marks=pytest.mark.chaos),
    ],
)
def test_every_split_gives_the_logits_of_the_whole_model(
    saved: tuple[PreTrainedModel, Path], splits: list[tuple[int, ...]]
) -> None:
    model, path = saved
    tokens = sequences(VOCAB)
    for cuts in splits:
        assert largest_difference(model, stages_of(path, cuts), tokens) < 1e-5, cuts


def test_greedy_continuations_through_stages_are_those_of_generate(tmp_path: Path) -> None:
    model = dense_model("llama")
    save(model, tmp_path)
    tokens = sequences(VOCAB)
    logits = run_stages(stages_of(tmp_path, (0, 1, LAYERS)), tokens)
    for row, row_logits in zip(tokens, logits, strict=True):
        everything = torch.ones_like(row[None])  # a token may happen to be the padding token
        generated = model.generate(row[None], attention_mask=everything, max_new_tokens=1, do_sample=False)
        assert int(row_logits[-1].argmax()) == int(generated[0, -1])


def test_the_last_stage_computes_only_the_logits_that_are_asked_for(tmp_path: Path) -> None:
    model = dense_model("llama")
    save(model, tmp_path)
    stage = stages_of(tmp_path, (0, LAYERS))[0]
    head_inputs: list[torch.Tensor] = []
    stage._model.lm_head.register_forward_pre_hook(lambda module, args: head_inputs.append(args[0]))
    batch, rows, _ = next(iter(batches()))
    wanted = torch.tensor([7, 2])
    tokens = sequences(VOCAB)[rows[0]][: batch.query_lengths[0]]
    everything = stage.run(batch, stage.new_cache(NUM_PAGES, PAGE_SIZE), tokens)
    some = stage.run(replace(batch, logits_rows_S=wanted), stage.new_cache(NUM_PAGES, PAGE_SIZE), tokens)
    assert head_inputs[-1].shape[1] == 2
    assert some.dtype == torch.float32
    torch.testing.assert_close(some, everything[wanted])


def test_bfloat16_stays_within_its_own_rounding(tmp_path: Path) -> None:
    model = dense_model("qwen3")
    save(model, tmp_path)
    dense = model.to(torch.bfloat16)
    tokens = sequences(VOCAB)
    stages = stages_of(tmp_path, (0, 2, LAYERS), torch.bfloat16)
    assert stages[0].dtype == torch.bfloat16
    scale = max(float(row.abs().max()) for row in run_stages(stages, tokens))
    assert largest_difference(dense, stages, tokens) < 0.1 * scale


def test_the_rehearsal_is_longer_than_the_window() -> None:
    assert max(LENGTHS) > 2 * WINDOW


def test_what_is_no_number_stays_with_the_request_that_brought_it(tmp_path: Path) -> None:
    save(dense_model("llama"), tmp_path)
    (stage,) = stages_of(tmp_path, (1, LAYERS))
    cache = stage.new_cache(3, 16)

    def first_tokens(page: int, count: int) -> Batch:
        index = torch.arange(count)
        table = torch.full((1, 1), page, dtype=torch.int32)
        return Batch(index, page * 16 + index, table, (count,), (count,), index)

    stage.run(first_tokens(0, 16), cache, torch.full((16, stage.hidden_size), torch.nan))
    # The next owner of the page writes few tokens, so the rest still holds what came before; a longer neighbour in
    # the same decode step makes it part of what is read and masked.
    stage.run(first_tokens(0, 3), cache, torch.randn(3, stage.hidden_size))
    stage.run(first_tokens(1, 16), cache, torch.randn(16, stage.hidden_size))
    both = Batch(
        positions_T=torch.tensor([3, 16]),
        slots_T=torch.tensor([3, 32]),
        page_tables_RP=torch.tensor([[0, 0], [1, 2]], dtype=torch.int32),
        query_lengths=(1, 1),
        context_lengths=(4, 17),
        logits_rows_S=torch.tensor([0, 1]),
    )
    assert stage.run(both, cache, torch.randn(2, stage.hidden_size)).isfinite().all()
