"""What a model does before its first layer and after its last one, for whoever lets others run the layers.

Token ids become hidden states, and hidden states become logits. Knows nothing of layers, and holds no
weights of them. Legend of shape suffixes in `batch`.
"""

from threading import Lock

import torch
from torch import Tensor
from transformers import PreTrainedModel

from muster.model.architecture import build_on_meta, fill_buffers, find_layers, parse_config
from muster.model.cut import StageCall, StageEnd, cut_to_ends
from muster.model.probe import parts_of
from muster.model.quantized.layouts.view import plainly
from muster.model.settings import running
from muster.model.stage import load_tensors, move_buffers, stage_tensors
from muster.model.weights import Weights


class ModelEnds:
    """See `build_ends`. Several threads may call it; it does one thing at a time."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        text = model.config.get_text_config(decoder=True)
        self.device, self.dtype = device, model.dtype
        self.hidden_size, self.vocab_size = int(text.hidden_size), int(text.vocab_size)
        self._model = model
        self._call = StageCall()
        self._turn = Lock()
        cut_to_ends(model, self._call)

    @torch.inference_mode()
    def embed(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """What the first layer is given for these int64 token ids: [T, H]."""
        with running(), self._turn:
            try:
                self._model(input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False, return_dict=True)
            except StageEnd as end:
                return end.hidden_1TH[0]
        raise AssertionError("no layer was asked for")

    @torch.inference_mode()
    def logits(self, hidden_TH: Tensor) -> Tensor:
        """Of hidden states that the last layer gave: float32 [T, V]."""
        positions_1T = torch.zeros(1, len(hidden_TH), dtype=torch.long, device=self.device)
        with running(), self._turn:
            self._call.enter(hidden_TH[None])
            try:
                output = self._model(
                    inputs_embeds=hidden_TH[None], position_ids=positions_1T, use_cache=False, return_dict=True
                )
            finally:
                self._call.leave()
        logits_TV: Tensor = output.logits[0].float()
        return logits_TV


def build_ends(weights: Weights, dtype: torch.dtype, device: torch.device) -> ModelEnds:
    """Read embedding, last norm and head only. Raises as `build_stage` does."""
    weights = plainly(weights)
    config = parse_config(weights.config_json)
    parts = parts_of(config)
    model = build_on_meta(config, dtype)
    prefix, layers = find_layers(model)
    count = len(layers)
    fill_buffers(model, skip=frozenset(f"{prefix}.{index}" for index in range(count)))
    needed = {*stage_tensors(model, parts, 0, 0), *stage_tensors(model, parts, count, count)}
    ordered = [name for name in model.state_dict() if name in needed]
    load_tensors(model, ordered, weights, dtype, device, {})
    move_buffers(model, device)
    return ModelEnds(model, device)
