"""Architectures are tried, not assumed: what comes out wrong is refused by name, what comes out right is served."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from muster.errors import UnsupportedModel
from muster.model import conformance
from muster.model.attention import SdpaBackend
from muster.model.conformance import MemoryWeights, check_conformance, random_model, shrunk
from muster.model.load import load_stage
from muster.model.probe import parts_of
from tests.model.families import CPU, FAMILIES

LIKE_THEM = ["mistral", "mixtral", "starcoder2"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path))


def text(config: PreTrainedConfig) -> str:
    return str(config.to_json_string(use_diff=False))


@pytest.mark.parametrize("family", ["llama-rope-3", "gemma3", "gpt-oss", "deepseek-v3", "opt-projected"])
def test_a_conforming_family_passes(family: str) -> None:
    check_conformance(text(FAMILIES[family]()))


@pytest.mark.parametrize(
    "model_type",
    [
        "llama",
        "gemma2",
        "cohere2",
        "glm4",
        "olmoe",
        *(pytest.param(name, marks=pytest.mark.chaos) for name in LIKE_THEM),
    ],
)
def test_a_published_size_is_shrunk_and_passes(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    check_conformance(text(config))
    assert sum(p.numel() for p in random_model(shrunk(config)).parameters()) < 2_000_000


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_model_of_very_few_heads_passes(heads: int) -> None:
    config = AutoConfig.for_model("llama", num_attention_heads=heads, hidden_size=8 * heads)
    check_conformance(text(config))


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bloom", r"Layers 0, 1 of BloomForCausalLM \(BloomAttention\) never called the attention interface"),
        ("minimax", r"Layers 1, 3, .*\(MiniMaxLightningAttention\) never called"),
        ("mamba", r"MambaBlock\) never called"),
        ("jamba", r"never called"),
        ("falcon", r"attention classes of its own"),
        ("bert", r"other numbers"),
        ("llama4_text", r"other numbers"),
        ("doge", r"tensor attention_mask"),
        ("diffllama", r"more than once"),
        ("xlm", r"lists of 12 layers"),
    ],
)
def test_a_family_that_would_come_out_wrong_is_refused_by_name(model_type: str, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        check_conformance(text(AutoConfig.for_model(model_type)))
    assert "choose another" in str(caught.value)


def test_the_verdict_is_kept_and_asked_again_when_a_version_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = conformance._try

    def counted(config: PreTrainedConfig, small: PreTrainedConfig, degree: int) -> str:
        asked.append(config.model_type)
        return real(config, small, degree)

    monkeypatch.setattr(conformance, "_try", counted)
    for _ in range(2):
        check_conformance(text(AutoConfig.for_model("llama")))
        with pytest.raises(UnsupportedModel, match="Bloom"):
            check_conformance(text(AutoConfig.for_model("bloom")))
    assert asked == ["llama", "bloom"]
    monkeypatch.setattr(conformance, "version_of", lambda *of: "another")
    check_conformance(text(AutoConfig.for_model("llama")))
    assert asked == ["llama", "bloom", "llama"]


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "file"))
    check_conformance(text(FAMILIES["llama"]()))


def test_a_stage_of_a_family_that_fails_is_not_loaded() -> None:
    config = AutoConfig.for_model("bloom", n_layer=2, hidden_size=32, n_head=4, vocab_size=50)
    weights = MemoryWeights(text(config), random_model(config).state_dict())
    with pytest.raises(UnsupportedModel, match="BloomAttention"):
        load_stage(weights, 0, 1, torch.float32, CPU)


def test_arithmetic_that_goes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SdpaBackend.attend

    def leaky(self: SdpaBackend, *arguments: object) -> torch.Tensor:
        return real(self, *arguments) * 1.01  # type: ignore[arg-type]

    monkeypatch.setattr(SdpaBackend, "attend", leaky)
    with pytest.raises(UnsupportedModel, match="other numbers in pages"):
        check_conformance(text(FAMILIES["llama"]()))


def test_layer_kinds_survive_the_shrinking() -> None:
    config = AutoConfig.for_model("gemma3_text")
    assert set(shrunk(config).layer_types) == set(config.layer_types) == {"sliding_attention", "full_attention"}


VALUES_ASKED_FOR = {
    "llama": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "qwen2": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "pad_token_id": 5},
    "gemma2": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "tie_word_embeddings": False},
    "gpt2": {"pad_token_id": 0},
}


@pytest.mark.parametrize("model_type", list(VALUES_ASKED_FOR))
def test_a_forward_pass_that_asks_for_a_number_is_no_reason_to_refuse(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, num_hidden_layers=4, **VALUES_ASKED_FOR[model_type])
    check_conformance(text(config))
    assert len(parts_of(config).head_sizes) == config.num_hidden_layers
