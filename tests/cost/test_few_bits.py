"""What is held in few bits takes as much by a bare config.json as by the modules themselves."""

import json

import pytest

from muster.cost.from_config import shape_from_config
from muster.cost.named_shapes import named_shape
from muster.model.shape import shape_of
from muster.spec.few_bits import FewBits
from tests.model.families import FAMILIES


@pytest.mark.parametrize("few", [FewBits("int4", "int8"), FewBits("int8", "int4")], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3-moe", "gpt-oss", "deepseek-v3"])
def test_both_books_count_the_same(family: str, few: FewBits) -> None:
    entries = json.loads(FAMILIES[family]().to_json_string(use_diff=False))
    wide = {"head_dim": 16, "qk_rope_head_dim": 16} if "head_dim" in entries else {}  # no matrix with few outputs
    text = json.dumps(entries | {key: value for key, value in wide.items() if entries.get(key)})
    read, counted = shape_from_config(text, "m", "bfloat16", few), shape_of(text, "m", "bfloat16", few)
    for books in (read, counted):
        assert books.few_bits == few
    assert (read.layer_bytes, read.expert_bytes) == (counted.layer_bytes, counted.expert_bytes)
    assert (read.kv_bytes_per_token, read.head_bytes) == (counted.kv_bytes_per_token, counted.head_bytes)


def test_a_large_model_falls_by_what_is_promised() -> None:
    plain, few = named_shape("llama-3-70b", "bfloat16"), named_shape("llama-3-70b", "bfloat16", FewBits("int4", "int4"))
    assert sum(plain.layer_bytes) / sum(few.layer_bytes) == pytest.approx(16 / 4.5, rel=0.001)
    assert sum(plain.kv_bytes_per_token) / sum(few.kv_bytes_per_token) == pytest.approx(16 / 4.5, rel=0.001)
    assert few.head_bytes == plain.head_bytes
