import pytest
import torch
from torch import nn

from muster.model.packed import operators_agree, pack_linears


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 7, 64, 300])
def test_a_packed_layer_gives_what_the_plain_one_gives(dtype, rows):
    torch.manual_seed(0)
    layer = nn.Linear(128, 192).to(dtype)
    x = torch.randn(2, rows, 128).to(dtype)
    with torch.inference_mode():
        expected = layer(x)
        assert pack_linears(layer) == (1 if operators_agree(dtype) else 0)
        result = layer(x)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
    assert (layer.weight.dtype, layer.weight.shape) == (dtype, (192, 128))


def test_a_view_with_strides_is_multiplied_right():
    torch.manual_seed(0)
    layer = nn.Linear(128, 128, bias=False)
    x = torch.randn(128, 6)
    with torch.inference_mode():
        expected = layer(x.T)
        pack_linears(layer)
        torch.testing.assert_close(layer(x.T), expected)


def test_a_tied_weight_a_tiny_one_and_a_subclass_stay_plain():
    class Special(nn.Linear):
        pass

    embedding, head = nn.Embedding(100, 128), nn.Linear(128, 100, bias=False)
    head.weight = nn.Parameter(embedding.weight.detach())  # the same memory
    model = nn.ModuleList([embedding, head, nn.Linear(8, 128), Special(128, 128)])
    assert pack_linears(model) == 0
    assert head.weight.device.type == "cpu"


def test_where_the_operators_are_missing_nothing_is_packed(monkeypatch):
    operators_agree.cache_clear()
    monkeypatch.setattr("muster.model.packed.packed_forward", _missing)
    try:
        assert pack_linears(nn.Linear(128, 128)) == 0
    finally:
        operators_agree.cache_clear()


def _missing(*_):
    raise AttributeError("no such operator")
