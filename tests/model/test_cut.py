"""The hidden state reaches the first held layer untouched, whatever the family does on the way."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from muster.model.cut import StageCall, StageEnd, cut


class Layer(nn.Module):
    attention_type = "full_attention"

    def __init__(self) -> None:
        super().__init__()
        self.index = 7

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, str]:
        return (hidden_states + 1, "something else")


class OldFamily(nn.Module):
    """Layers return tuples, embeddings are scaled and positions added, and attributes of layers are read."""

    class config:  # noqa: N801  # as transformers spells it
        @staticmethod
        def get_text_config(decoder: bool) -> Any:
            return type("Text", (), {"num_hidden_layers": 4})

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(10, 2)
        self.norm = nn.LayerNorm(2)
        self.final = nn.LayerNorm(2)
        self.layers = nn.ModuleList(Layer() for _ in range(4))

    def forward(self, inputs_embeds: Tensor, by_name: bool) -> Tensor:
        x = self.norm(inputs_embeds) * 3 + self.positions(torch.tensor([[0, 1]]))
        for layer in self.layers:
            assert layer.index == 7
            x = layer(hidden_states=x)[0] if by_name else layer(x)[0]
        return self.final(x)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_middle_stage_of_layers_that_return_tuples_runs_only_its_own(by_name: bool) -> None:
    model, call = OldFamily(), StageCall()
    cut(model, 2, 3, call)  # type: ignore[arg-type]
    hidden = torch.randn(1, 2, 2)
    call.enter(hidden)
    with pytest.raises(StageEnd) as end:
        model(hidden, by_name)
    torch.testing.assert_close(end.value.hidden_1TH, hidden + 1, rtol=0, atol=0)


def test_what_runs_after_the_layers_is_awake_again() -> None:
    model, call = OldFamily(), StageCall()
    nn.init.constant_(model.final.bias, 5.0)
    cut(model, 2, 4, call)  # type: ignore[arg-type]
    hidden = torch.randn(1, 2, 2)
    for _ in range(2):
        call.enter(hidden)
        out = model(hidden, True)
        call.leave()
        torch.testing.assert_close(out, nn.functional.layer_norm(hidden + 2, (2,)) + 5.0)
