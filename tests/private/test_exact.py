"""However tokens are shared out, logits are those of the plain model."""

from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedModel

from muster.errors import ContextTooLong
from muster.model.conformance import MemoryWeights
from muster.private.client import NewIds
from muster.private.local import LocalSession, generate_greedily
from muster.spec.token_shards import TokenShards
from tests.model.families import VOCAB, dense_model

IDS = torch.randint(3, VOCAB, (25,), generator=torch.Generator().manual_seed(0))

FAMILIES_AND_RULES = [
    ("llama", TokenShards(8, 2, 3)),
    ("mixtral", TokenShards(2, 3, 2)),
    ("qwen2", TokenShards(3, 2, 3)),
    ("qwen3-moe", TokenShards(2, 2, 4)),
    ("gemma2", TokenShards(1, 3, 3)),
    ("phi3", TokenShards(1, 1, 1)),
    ("opt-projected", TokenShards(1, 2, 5)),
    ("gpt2", TokenShards(5, 4, 1)),
    ("gpt-oss", TokenShards(2, 1, 4)),
    ("deepseek-v3", TokenShards(3, 3, 3)),
]


def session_of(model: PreTrainedModel, rule: TokenShards, max_tokens: int = 64) -> LocalSession:
    weights = MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())
    return LocalSession(weights, rule, max_tokens=max_tokens)


def plain(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids[None], use_cache=False).logits[0].float()


@pytest.mark.parametrize(("family", "rule"), FAMILIES_AND_RULES, ids=[name for name, _ in FAMILIES_AND_RULES])
def test_prompt_chunk_and_single_tokens_give_the_logits_of_the_plain_model(family: str, rule: TokenShards) -> None:
    model = dense_model(family)
    session = session_of(model, rule)
    cuts = [0, 14, 22, *range(23, len(IDS) + 1)]
    parts = [
        session.step([NewIds(0, start, tuple(IDS[start:stop].tolist()))], every=True) for start, stop in pairwise(cuts)
    ]
    assert float((torch.cat(parts) - plain(model, IDS)).abs().max()) <= 1e-5


def test_greedy_tokens_are_those_of_the_plain_model() -> None:
    model = dense_model("qwen3")
    made = generate_greedily(session_of(model, TokenShards(2, 2, 3)), IDS[:9].tolist(), 24)
    ids = IDS[:9].tolist()
    for _ in range(24):
        ids.append(int(plain(model, torch.tensor(ids))[-1].argmax()))
    assert made == ids[9:]


def test_sequences_share_a_step_and_do_not_mix() -> None:
    model = dense_model("mistral")
    session = session_of(model, TokenShards(2, 2, 3))
    first, second = IDS[:11], IDS[11:18]
    session.step([NewIds(5, 0, tuple(first[:9].tolist()))])
    both = session.step([NewIds(5, 9, tuple(first[9:].tolist())), NewIds(7, 0, tuple(second.tolist()))])
    expected = torch.stack([plain(model, first)[-1], plain(model, second)[-1]])
    assert float((both - expected).abs().max()) <= 1e-5


def test_a_sequence_that_is_over_leaves_nothing() -> None:
    session = session_of(dense_model("llama"), TokenShards(2, 2, 3))
    session.step([NewIds(0, 0, (3, 4, 5))])
    assert {node.sequences for node in session.attn_nodes.values()} == {0, 1}
    session.forget(0)
    assert {node.sequences for node in session.attn_nodes.values()} == {0}


def test_bfloat16_stays_within_its_own_rounding() -> None:
    model = dense_model("llama")
    expected = plain(model.to(torch.bfloat16), IDS)
    weights = MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())
    session = LocalSession(weights, TokenShards(2, 2, 3), torch.bfloat16)
    found = session.step([NewIds(0, 0, tuple(IDS.tolist()))], every=True)
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_a_sequence_that_is_too_long_is_refused_before_anything_is_sent() -> None:
    sent: list[object] = []
    model = dense_model("llama")
    weights = MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())
    session = LocalSession(weights, TokenShards(2, 1, 1), watch=lambda message, _: sent.append(message), max_tokens=4)
    with pytest.raises(ContextTooLong, match="longer than the 4"):
        session.step([NewIds(0, 0, (1, 2, 3, 4, 5))])
    assert sent == []
