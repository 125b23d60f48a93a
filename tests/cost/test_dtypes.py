"""One rule says in which dtype a model is computed, from what the checkpoint is and what the machines compute fast."""

import json

import pytest

from muster.cost.config_fields import Fields
from muster.cost.dtypes import DTYPES, checkpoint_dtype, fastest_dtype, possible_dtypes
from muster.errors import UnsupportedModel
from muster.model.shape import DTYPES as TORCH_DTYPES
from muster.spec.pool import Device, Node


def node(kind: str = "cpu", count: int = 1, **speeds: float) -> Node:
    return Node("n", "n", "here", Device(kind, "d", memory_bytes=2**30, flops_per_s=speeds), device_count=count)


OLD_CPU = node(float32=1e12, bfloat16=1e10)
NEW_CPU = node(float32=1e12, bfloat16=4e12)
UNASKED_CPU = node(float32=1e12)
UNMEASURED = node()
GPU = node("cuda", float32=2e13, bfloat16=1e14, float16=1e14)
T4 = node("cuda", float32=8e12, float16=6.5e13)
MAC = node("mps", float32=2.7e13, bfloat16=2.7e13, float16=2.7e13)


@pytest.mark.parametrize(
    ("checkpoint", "nodes", "served"),
    [
        ("bfloat16", [OLD_CPU], "float32"),
        ("bfloat16", [UNASKED_CPU], "float32"),
        ("bfloat16", [UNMEASURED], "float32"),
        ("bfloat16", [NEW_CPU], "bfloat16"),
        ("bfloat16", [GPU], "bfloat16"),
        ("bfloat16", [MAC], "bfloat16"),
        ("bfloat16", [T4], "bfloat16"),
        ("bfloat16", [], "bfloat16"),
        ("bfloat16", [OLD_CPU, UNASKED_CPU, GPU], "bfloat16"),
        ("bfloat16", [NEW_CPU, *[OLD_CPU] * 2], "bfloat16"),
        ("bfloat16", [NEW_CPU, *[OLD_CPU] * 9], "float32"),
        ("bfloat16", [node(count=8, float32=1e12, bfloat16=2e12), *[OLD_CPU] * 7], "bfloat16"),
        ("float16", [GPU], "float16"),
        ("float16", [T4], "float16"),
        ("float16", [MAC], "float16"),
        ("float16", [NEW_CPU], "bfloat16"),
        ("float16", [OLD_CPU], "float32"),
        ("float16", [], "float16"),
        *[("float32", [one], "float32") for one in (OLD_CPU, NEW_CPU, GPU, T4, MAC)],
    ],
)
def test_the_pool_computes_in_what_its_machines_compute_fastest(
    checkpoint: str, nodes: list[Node], served: str
) -> None:
    fields = Fields({"model_type": "llama", "dtype": checkpoint})
    assert fastest_dtype(possible_dtypes(fields), nodes) == served
    assert fastest_dtype(possible_dtypes(fields), reversed(nodes)) == served
    for wanted in DTYPES:
        assert fastest_dtype(possible_dtypes(fields, wanted), nodes) == wanted


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({}, "bfloat16"),
        ({"dtype": None}, "bfloat16"),
        ({"torch_dtype": "auto"}, "bfloat16"),
        ({"dtype": "auto", "torch_dtype": "float16"}, "bfloat16"),
        ({"dtype": None, "torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"torch_dtype": "half"}, "float16"),
        ({"dtype": "float64"}, "float32"),
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, "float32"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"dtype": "nonsense"}, "bfloat16"),
        ({"dtype": 3}, "bfloat16"),
        ({"dtype": ["float32"]}, "bfloat16"),
        ({"dtype": {"a": "float32"}}, "bfloat16"),
        ({"dtype": "float16", "text_config": {"model_type": "llama"}}, "float16"),
        ({"torch_dtype": "float16", "text_config": {"model_type": "llama", "dtype": "float32"}}, "float32"),
        ({"dtype": "float16", "text_config": {"model_type": "llama", "torch_dtype": None}}, "float16"),
    ],
)
def test_a_configuration_names_its_dtype_in_many_ways_or_not_at_all(entries: dict[str, object], says: str) -> None:
    assert checkpoint_dtype(Fields.parse(json.dumps({"model_type": "llama", **entries}))) == says


def test_a_wanted_dtype_that_is_not_served_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'int8' is not served; choose one of float32, float16, bfloat16"):
        possible_dtypes(Fields({"model_type": "llama"}), "int8")
    assert set(DTYPES) == set(TORCH_DTYPES)
