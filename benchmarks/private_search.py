"""Attacks by search on a model whose weights are known: which tokens make these hidden states?

An attacker knows the tokens up to some place and the state of one token behind a stretch that it does not know. It runs
candidates for the stretch, and that token, through the model until the state comes out right (vocabulary matching,
arXiv 2505.18332, generalised to stretches in arXiv 2507.05228). States are those of the model that `transformers` runs.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

BATCH = 512
SAME = 1e-2
"""Largest mean difference of two states (L1, divided by the true one's mean) that count as the same: others differ by
tenths, and rounding by 1e-5."""


@dataclass(frozen=True)
class Found:
    tokens: tuple[int, ...] | None
    """None: the budget was used up."""
    passes: int
    """Candidates that were run."""


class Searcher:
    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.vocab = int(model.config.vocab_size)

    @torch.inference_mode()
    def states(self, ids: Sequence[int]) -> Tensor:
        """Input of every layer, and what comes behind the last one: [layers + 1, T, H]."""
        hidden = self._hidden(torch.tensor([ids]), None)
        return hidden[:, 0]

    @torch.inference_mode()
    def after(self, prefix: Sequence[int], candidates: Sequence[Sequence[int]]) -> Tensor:
        """States of the last token of each candidate behind the prefix: [layers + 1, B, H]."""
        past = None
        if prefix:
            past = self.model.model(torch.tensor([prefix]), use_cache=True).past_key_values
            past.batch_repeat_interleave(len(candidates))
        return self._hidden(torch.tensor(candidates), past)[:, :, -1]

    def _hidden(self, ids: Tensor, past: Any) -> Tensor:
        kept: list[Tensor] = []
        layers = self.model.model.layers
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, kwargs: kept.append(args[0]), with_kwargs=True)
            for layer in layers
        ]
        hooks.append(layers[-1].register_forward_hook(lambda _, args, out: kept.append(out)))
        try:
            self.model.model(ids, past_key_values=past, use_cache=past is not None)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(kept)

    def search(
        self,
        prefix: Sequence[int],
        known: Sequence[int],
        target_H: Tensor,
        depth: int,
        order: Iterator[Sequence[int]],
        budget: int,
    ) -> Found:
        """The stretch between `prefix` and `known` (whose last token has the state `target_H` at `depth`)."""
        return self.search_depths(prefix, known, {depth: target_H}, order, budget)[depth]

    def search_depths(
        self,
        prefix: Sequence[int],
        known: Sequence[int],
        targets: dict[int, Tensor],
        order: Iterator[Sequence[int]],
        budget: int,
        batch: int = BATCH,
    ) -> dict[int, Found]:
        """As `search`, from each depth alone; one pass gives the states at all of them."""
        found: dict[int, Found] = {}
        passes = 0
        while (
            len(found) < len(targets)
            and passes < budget
            and (stretches := list(islice(order, min(batch, budget - passes))))
        ):
            states = self.after(prefix, [[*stretch, *known] for stretch in stretches])
            for depth in targets.keys() - found.keys():
                error_B = (states[depth] - targets[depth]).abs().mean(-1) / float(targets[depth].abs().mean())
                best = int(error_B.argmin())
                if float(error_B[best]) < SAME:
                    found[depth] = Found(tuple(stretches[best]), passes + best + 1)
            passes += len(stretches)
        return {depth: found.get(depth, Found(None, passes)) for depth in targets}

    def blind(self, length: int) -> Iterator[Sequence[int]]:
        """Every stretch of this length, in an order that says nothing."""
        return product(range(self.vocab), repeat=length)

    def guided(self, prefix: Sequence[int], length: int, budget: int) -> Iterator[Sequence[int]]:
        """Stretches in the order of their probability by the model itself, likeliest first.

        Ends after `budget` passes of the model that asks what may come next; they are not counted as tries.
        """
        # (cost, tokens, (costs and ids of what may stand at the last place, best first), which of them it is)
        waiting: list[tuple[float, tuple[int, ...], tuple[list[float], list[int]], int]] = []

        def add(cost: float, tokens: tuple[int, ...], last: tuple[list[float], list[int]], at: int) -> None:
            if at < len(last[0]):
                heapq.heappush(waiting, (cost + last[0][at], (*tokens, last[1][at]), last, at))

        add(0.0, (), self._next(prefix), 0)
        passes = 1
        while waiting:
            cost, tokens, last, at = heapq.heappop(waiting)
            add(cost - last[0][at], tokens[:-1], last, at + 1)
            if len(tokens) == length:
                yield tokens
            elif passes < budget:
                passes += 1
                add(cost, tokens, self._next([*prefix, *tokens]), 0)

    @torch.inference_mode()
    def _next(self, ids: Sequence[int]) -> tuple[list[float], list[int]]:
        logits_V = self.model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].float()
        costs, order = (-logits_V.log_softmax(-1)).sort()
        return costs.tolist(), order.tolist()

    @torch.inference_mode()
    def surprise(self, ids: Sequence[int]) -> Tensor:
        """Of each token but the first, given all before it, as a decimal logarithm: [T - 1]."""
        logits_TV = self.model(torch.tensor([ids]), use_cache=False).logits[0].float()
        chosen_T = torch.tensor(ids[1:])
        return -logits_TV[:-1].log_softmax(-1).gather(1, chosen_T[:, None])[:, 0] / torch.log(torch.tensor(10.0))
