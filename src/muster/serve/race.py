"""Weights become tokens by Gumbel-max: every token has noise of its own, and the best of weight and noise wins.

Told as a race, of which Gumbel-max is the logarithm (C. Maddison, D. Tarlow, T. Minka, "A* Sampling", NIPS 2014,
section 2): token i arrives after e_i / weight_i, where the e_i are independent draws of the exponential distribution;
the first to arrive is i with a probability of weight_i over the sum. The e_i depend on seed, position and token alone.
So rounding decides only where two tokens arrive together, and two models that nearly agree draw the same token nearly
always, at any temperature.

A vocabulary has too many tokens to draw an e_i for each. Of a block of them the smallest is drawn first, and which
token has it; the others are that plus draws of their own, as the exponential distribution forgets. With the smallest,
most tokens of a block come too late for their weight, and their own are never drawn.

Legend of shape suffixes: S rows, V vocabulary, C blocks of the vocabulary, B tokens of a block, N (row, token) pairs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from muster.serve.generator import Noise, exponential

BLOCK = 128
"""Tokens of a block. It is part of what a seed means."""
_TOKENS, _BLOCKS = 0, 1
"""Streams of the generator."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def first_to_arrive(weights_SV: Tensor, seeds: list[int], positions: list[int]) -> list[int]:
    """The token of each row; its weights need not sum to 1, and a token of weight 0 is not drawn."""
    rows, size = weights_SV.shape
    device = weights_SV.device
    weights_SCB = pad(weights_SV, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    noise = Noise(seeds, positions)
    smallest, place = _blocks(noise, weights_SCB.shape[1])
    smallest_SC, place_SC = torch.from_numpy(smallest).to(device), torch.from_numpy(place).to(device)

    # Two good tokens of each row say how late is too late for all others: the first of those that have the smallest
    # draw of their block, and the heaviest of the block that might bring the winner.
    times_SC = smallest_SC / weights_SCB.gather(2, place_SC[:, :, None])[:, :, 0]
    time_S, block_S = times_SC.min(dim=-1)
    every_S = torch.arange(rows, device=device)
    token_S = block_S * BLOCK + place_SC[every_S, block_S]
    earliest_SC = smallest_SC / weights_SCB.amax(dim=-1)
    leading_S = earliest_SC.argmin(dim=-1)
    heaviest_S = leading_S * BLOCK + weights_SCB[every_S, leading_S].argmax(dim=-1)

    def run(row_N: Tensor, token_N: Tensor) -> Floats:
        weight_N = weights_SCB.flatten(1)[row_N, token_N].cpu().numpy()
        times: Floats = _draws(noise, row_N.cpu().numpy(), token_N.cpu().numpy(), smallest, place) / weight_N
        return times

    bound_S = torch.minimum(time_S, torch.from_numpy(run(every_S, heaviest_S)).to(device))
    row_N, block_N = (earliest_SC <= bound_S[:, None]).nonzero(as_tuple=True)
    least_N1 = (smallest_SC[row_N, block_N] / bound_S[row_N])[:, None]
    pair_N, offset_N = (weights_SCB[row_N, block_N] >= least_N1).nonzero(as_tuple=True)
    row_N, token_N = row_N[pair_N], block_N[pair_N] * BLOCK + offset_N
    times_N = run(row_N, token_N)
    best_time, best = time_S.tolist(), token_S.tolist()
    for index in np.flatnonzero(times_N < time_S[row_N].cpu().numpy()).tolist():
        row, time = int(row_N[index]), float(times_N[index])
        if time < best_time[row]:
            best_time[row], best[row] = time, int(token_N[index])
    return [min(token, size - 1) for token in best]


def arrivals(noise: Noise, vocab_size: int, tokens: list[int]) -> Floats:
    """The e_i of one token of each row."""
    smallest, place = _blocks(noise, -(-vocab_size // BLOCK))
    return _draws(noise, np.arange(len(tokens)), np.array(tokens, dtype=np.int64), smallest, place)


def _blocks(noise: Noise, count: int) -> tuple[Floats, Ints]:
    """The smallest draw of each block, and the place of the token that has it."""
    words = noise.words(slice(None), np.arange(-(-count // 2), dtype=np.uint64), _BLOCKS)
    draw_SC = np.stack([words[0], words[2]], axis=-1).reshape(len(words[0]), -1)[:, :count]
    place_SC = np.stack([words[1], words[3]], axis=-1).reshape(len(words[0]), -1)[:, :count]
    return exponential(draw_SC) / BLOCK, (place_SC * np.uint64(BLOCK) >> np.uint64(32)).astype(np.int64)


def _draws(noise: Noise, rows_N: Ints, tokens_N: Ints, smallest_SC: Floats, place_SC: Ints) -> Floats:
    """The e_i of some tokens."""
    words_N4 = np.stack(noise.words(rows_N, (tokens_N >> 2).astype(np.uint64), _TOKENS), axis=-1)
    own_N = exponential(words_N4[np.arange(len(tokens_N)), tokens_N & 3])
    where = (rows_N, tokens_N // BLOCK)
    own_N[place_SC[where] == tokens_N % BLOCK] = 0.0
    drawn: Floats = smallest_SC[where] + own_N
    return drawn
