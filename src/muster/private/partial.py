"""Attention over some of the keys, and how such parts become attention over all of them. No approximation.

For a query and the keys of one shard: the largest score m, e = sum exp(s - m), u = sum exp(s - m) v. Of all shards:

    M = max m_k,    output = sum exp(m_k - M) u_k / sum exp(m_k - M) e_k

Source: the online softmax (Milakov and Gimelshein, arXiv 1805.02867) as in Cascade's post-pass (arXiv 2507.05228).
Legend as in `model/batch`; G query heads per key/value head, L keys of this shard.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttnLayer:
    """What an AttnNode has to know of a layer. Queries come scaled."""

    query_heads: int
    kv_heads: int
    key_size: int
    value_size: int
    window: int
    """Which of a step's windows applies."""
    softcap: float = 0.0
    """0: none."""

    @property
    def query_values(self) -> int:
        """Numbers of one query row."""
        return self.query_heads * self.key_size

    @property
    def key_values(self) -> int:
        """Numbers of the keys and values of one row."""
        return self.kv_heads * (self.key_size + self.value_size)

    @property
    def partial_values(self) -> int:
        return self.query_heads * (self.value_size + 2)


def attend_partly(
    q_TND: Tensor, k_LKD: Tensor, v_LKD: Tensor, starts_T: Tensor, stops_T: Tensor, softcap: float
) -> Tensor:
    """(u, m, e) of each query and head over keys [start, stop) of these, float32 [T, N, size of a value + 2].

    Where no key is visible, m is minus infinity and the rest is 0.
    """
    tokens, heads, size = q_TND.shape
    kv_heads = k_LKD.shape[1]
    q_KGTD = q_TND.float().reshape(tokens, kv_heads, heads // kv_heads, size).permute(1, 2, 0, 3)
    scores_KGTL = q_KGTD @ k_LKD.float().permute(1, 2, 0)[:, None]
    if softcap:
        scores_KGTL = torch.tanh(scores_KGTL / softcap) * softcap
    at_L = torch.arange(len(k_LKD), device=q_TND.device)
    hidden_TL = (at_L < starts_T[:, None]) | (at_L >= stops_T[:, None])
    scores_KGTL = scores_KGTL.masked_fill(hidden_TL, -torch.inf)
    if not len(k_LKD):
        most_KGT1 = scores_KGTL.new_full((*scores_KGTL.shape[:3], 1), -torch.inf)
    else:
        most_KGT1 = scores_KGTL.amax(-1, keepdim=True)
    weights_KGTL = torch.exp(scores_KGTL - most_KGT1.masked_fill(most_KGT1.isneginf(), 0.0))
    u_KGTD = weights_KGTL @ v_LKD.float().transpose(0, 1)[:, None]
    part_KGTD = torch.cat([u_KGTD, most_KGT1, weights_KGTL.sum(-1, keepdim=True)], dim=-1)
    return part_KGTD.permute(2, 0, 1, 3).reshape(tokens, heads, -1)


def merge(parts_STNE: Tensor, sinks_N: Tensor | None) -> Tensor:
    """Attention over the keys of all shards S, float32 [T, N, size of a value].

    A sink takes part in the sum as a key without a value (GPT-OSS).
    """
    u_STND, m_STN, e_STN = parts_STNE[..., :-2], parts_STNE[..., -2], parts_STNE[..., -1]
    most_TN = m_STN.amax(0)
    if sinks_N is not None:
        most_TN = torch.maximum(most_TN, sinks_N.float())
    share_STN = torch.exp(m_STN - most_TN)
    total_TN = (share_STN * e_STN).sum(0)
    if sinks_N is not None:
        total_TN = total_TN + torch.exp(sinks_N.float() - most_TN)
    return (share_STN[..., None] * u_STND).sum(0) / total_TN[..., None]
