"""A trained attack: a small network that reads tokens off hidden states, with and without the token's own state.

    unsharded   the state of a token                          -> that token
    sharded     the states on both sides of a hidden stretch  -> the tokens of the stretch

The second is all that one machine has of a stretch. Beside it stands what needs no state: always naming the token that
is the most frequent.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.private_search import Searcher

WIDTH = 512


def samples(searcher: Searcher, texts: Sequence[Sequence[int]], depth: int, stretch: int) -> tuple[Tensor, ...]:
    """(own states, own tokens, states around stretches, tokens of the stretches), normalised row by row."""
    own, tokens, around, hidden = [], [], [], []
    for ids in texts:
        states_TH = nn.functional.layer_norm(searcher.states(ids)[depth], (searcher.model.config.hidden_size,))
        ids_T = torch.tensor(ids)
        for start in range(stretch, len(ids) - stretch - 1, stretch):
            own.append(states_TH[start])
            tokens.append(ids_T[start])
            around.append(torch.cat([states_TH[start - 1], states_TH[start + stretch]]))
            hidden.append(ids_T[start : start + stretch])
    return torch.stack(own), torch.stack(tokens)[:, None], torch.stack(around), torch.stack(hidden)


def train(x_BX: Tensor, y_BT: Tensor, vocab: int, epochs: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x_BX.shape[1], WIDTH), nn.GELU(), nn.Linear(WIDTH, y_BT.shape[1] * vocab))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x_BX)).split(64):
                logits = net(x_BX[rows]).view(len(rows), -1, vocab)
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), y_BT[rows].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net


@torch.inference_mode()
def judged(net: nn.Module, x_BX: Tensor, y_BT: Tensor, vocab: int) -> dict[str, float]:
    guesses = net(x_BX).view(len(x_BX), -1, vocab).argmax(-1)
    return scores(guesses.tolist(), y_BT.tolist())


def scores(guesses: list[list[int]], truth: list[list[int]]) -> dict[str, float]:
    """In percent: tokens at their place, F1 over the bags of tokens, ROUGE-L (by the longest common subsequence)."""
    places = sum(g == t for one, other in zip(guesses, truth, strict=True) for g, t in zip(one, other, strict=True))
    total = sum(map(len, truth))
    shared = sum((Counter(one) & Counter(other)).total() for one, other in zip(guesses, truth, strict=True))
    common = sum(longest_common(one, other) for one, other in zip(guesses, truth, strict=True))
    return {
        "tokens": round(100 * places / total, 2),
        "f1": round(100 * shared / total, 2),
        "rouge_l": round(100 * common / total, 2),
    }


def longest_common(one: list[int], other: list[int]) -> int:
    lengths = [0] * (len(other) + 1)
    for a in one:
        before = lengths[:]
        for index, b in enumerate(other):
            lengths[index + 1] = before[index] + 1 if a == b else max(before[index + 1], lengths[index])
    return lengths[-1]


def inverted(
    searcher: Searcher,
    texts: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    stretch: int,
    depth: int,
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    own, tokens, around, hidden = samples(searcher, texts, depth, stretch)
    test = samples(searcher, held_out, depth, stretch)
    common = torch.mode(hidden.flatten()).values
    return {
        "stretch": stretch,
        "depth": depth,
        "samples": len(own),
        "tested": len(test[0]),
        "unsharded": judged(train(own, tokens, searcher.vocab, epochs, seed), test[0], test[1], searcher.vocab),
        "sharded": judged(train(around, hidden, searcher.vocab, epochs, seed), test[2], test[3], searcher.vocab),
        "no_state": scores(torch.full_like(test[3], int(common)).tolist(), test[3].tolist()),
    }
