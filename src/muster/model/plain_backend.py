"""Attention written out in the public operators of PyTorch, for one whole prompt: what a disputed pass is traced with.

Nothing is cached and no kernel of a device takes part, so that every machine runs the same operators in the same order,
each of which can be checked by itself. Scores and weights are float32, as they are inside of fused kernels. Slow: the
scores of all tokens with all tokens are in memory at once.
"""

import torch
from torch import Tensor

from muster.model.attention import Options
from muster.model.batch import Batch
from muster.model.cache import KVCache


class PlainBackend:
    """Takes batches of one row that begins at its first token."""

    def prepare(self, batch: Batch, cache: KVCache | None, dtype: torch.dtype) -> Tensor:
        """The positions, [T]."""
        assert batch.query_lengths == batch.context_lengths
        assert len(batch.query_lengths) == 1
        return batch.positions_T

    def attend(
        self, prepared: Tensor, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        tokens, heads, size = q_TND.shape
        kv_heads = k_TKD.shape[1]
        q_KGTD = q_TND.float().reshape(tokens, kv_heads, heads // kv_heads, size).permute(1, 2, 0, 3)
        k_K1DL = k_TKD.float().permute(1, 2, 0)[:, None]
        v_K1LD = v_TKD.float().permute(1, 0, 2)[:, None]
        scores_KGTL = q_KGTD @ k_K1DL * options.scale
        if options.softcap is not None:
            scores_KGTL = torch.tanh(scores_KGTL / options.softcap) * options.softcap
        scores_KGTL = scores_KGTL.masked_fill(_hidden(prepared, options.window), -torch.inf)
        if options.sinks_N is not None:
            sink_KGT1 = options.sinks_N.float().view(kv_heads, -1, 1, 1).expand(-1, -1, tokens, 1)
            scores_KGTL = torch.cat([scores_KGTL, sink_KGT1], dim=-1)
        weights_KGTL = torch.softmax(scores_KGTL, dim=-1)[..., :tokens]
        out_KGTD = weights_KGTL @ v_K1LD
        return out_KGTD.permute(2, 0, 1, 3).reshape(tokens, heads, -1).to(v_TKD.dtype)


def _hidden(positions_T: Tensor, window: int | None) -> Tensor:
    """[T, L], true where a token does not see a key."""
    distance_TL = positions_T[:, None] - positions_T[None]
    later = distance_TL < 0
    return later if window is None else later | (distance_TL >= window)
