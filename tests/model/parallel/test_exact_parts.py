"""However many members a stage has, its logits are those of the whole model."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from muster.errors import UnsupportedModel
from muster.model.conformance import check_conformance, random_model
from muster.model.parallel.group import Seat
from muster.model.rehearsal import Together, largest_difference, sequences
from muster.model.stage import Stage, build_stage
from muster.model.weights import open_directory
from tests.model.families import CPU, FAMILIES, LAYERS, VOCAB, dense_model, save

CUT = [
    "llama",
    "llama-tied",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3-moe",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt-neox",
    "olmo2",
    "deepseek-v2",
    "deepseek-v3",
]
WHOLE = ["opt", "gpt2", "gpt-oss"]


def config_of(family: str) -> PreTrainedConfig:
    """With experts that are wide enough for four members."""
    config = FAMILIES[family]()
    for key in ("intermediate_size", "moe_intermediate_size"):
        if hasattr(config, key):
            setattr(config, key, 64)
    return config


def islands(path: Path, cuts: tuple[int, ...], degrees: tuple[int, ...]) -> list[Stage | Together]:
    weights = open_directory(path)
    return [
        Together([build_stage(weights, first, last, torch.float32, CPU, Seat(rank, degree)) for rank in range(degree)])
        for (first, last), degree in zip(pairwise(cuts), degrees, strict=True)
    ]


@pytest.fixture(scope="module", params=CUT)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model = random_model(config_of(request.param))
    return model, save(model, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(
    ("cuts", "degrees"),
    [
        pytest.param((0, LAYERS), (2,), marks=pytest.mark.chaos),  # 2-1-2 has it as well
        ((0, 1, LAYERS), (4, 4)),
        ((0, 1, 2, LAYERS), (2, 1, 2)),
    ],
    ids=["2", "4", "2-1-2"],
)
def test_every_degree_gives_the_logits_of_the_whole_model(
    saved: tuple[PreTrainedModel, Path], cuts: tuple[int, ...], degrees: tuple[int, ...]
) -> None:
    model, path = saved
    assert largest_difference(model, islands(path, cuts, degrees), sequences(VOCAB)) < 1e-5


@pytest.mark.parametrize("family", WHOLE)
def test_an_architecture_without_a_plan_stays_whole_and_says_so(family: str, tmp_path: Path) -> None:
    weights = open_directory(save(dense_model(family), tmp_path))
    with pytest.raises(UnsupportedModel, match="keep its stages whole"):
        build_stage(weights, 0, LAYERS, torch.float32, CPU, Seat(0, 2))


def test_a_degree_that_does_not_divide_says_which_would() -> None:
    config = FAMILIES["llama"]().to_json_string(use_diff=False)
    with pytest.raises(UnsupportedModel, match=r"into 3 parts .* degrees 2, 4 would do"):
        check_conformance(config, 3)


@pytest.mark.parametrize("degree", [2, 4])
def test_conformance_is_tried_at_the_degree_at_which_a_stage_runs(degree: int) -> None:
    check_conformance(config_of("qwen3-moe").to_json_string(use_diff=False), degree)
