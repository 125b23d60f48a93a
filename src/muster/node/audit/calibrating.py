"""Limits of a model: honest runs on this machine, each through all layers, beside the same in float32.

The model itself writes texts, many at once; then these pass its layers again in pieces of other sizes and on other
numbers of threads. How far the hidden states behind each layer, the logits and the tokens are off says what rounding
does, and so from where on something else must be at work.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.model.load import load_stage
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.node.audit.kept import ModelLimits
from muster.node.audit.looking import redrawn
from muster.node.audit.recomputing import CHUNK, CPU, PAGE_SIZE, boundaries, stages_of
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.verify.calibrating import calibrated, margin_limit, surprise_limit
from muster.verify.fingerprint import drift, key_of, opened, places, taken
from muster.verify.limits import DriftLimits, block_means

Floats = npt.NDArray[np.float64]
Text = tuple[Request, list[int]]
PROMPT = 24
WITHIN = 64
"""Tokens over which a margin is to hold."""
FALSE_ALARMS = 1e-5
FEW = 17
"""Tokens of the smallest pieces."""


def texts(weights: Weights, dtype: torch.dtype, num_layers: int, count: int, length: int, seed: int) -> list[Text]:
    """That the model writes at temperature 1, all at once; each with its prompt of random tokens."""
    stage = load_stage(weights, 0, num_layers, dtype, CPU)
    random, pages = Random(seed), count * (-(-length // PAGE_SIZE) + 1)
    options = EngineOptions(length + 1, num_microbatches=1, max_microbatches=1, max_batch=count)
    ring = LocalRing([stage], [stage.new_cache(pages, PAGE_SIZE)], options)
    found: dict[str, Text] = {}
    for number in range(count):
        prompt = tuple(random.randrange(stage.vocab_size) for _ in range(PROMPT))
        sampling = Sampling(max_tokens=length - PROMPT, seed=number, ignore_eos=True)
        request = Request(f"{seed:016x}{number:016x}", prompt, sampling)
        found[request.id] = (request, list(prompt))
        ring.engine.submit(request)
    while ring.busy:
        for progress in ring.work():
            found[progress.request_id][1].extend(one.token for one in progress.tokens)
    return list(found.values())


def variants(dtype: torch.dtype) -> dict[str, Callable[[Sequence[Stage], Text], Iterator[Tensor]]]:
    """Honest ways to compute the same."""

    def with_threads(count: int, stages: Sequence[Stage], text: Text) -> Iterator[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield from list(boundaries(stages, text[1], PROMPT - 1))
        finally:
            torch.set_num_threads(before)

    return {
        "one piece": lambda stages, text: boundaries(stages, text[1], PROMPT - 1),
        f"pieces of {FEW}": lambda stages, text: boundaries(stages, text[1], PROMPT - 1, FEW),
        "pieces of 64": lambda stages, text: boundaries(stages, text[1], PROMPT - 1, CHUNK // 4),
        "two threads": lambda stages, text: with_threads(2, stages, text),
    }


def limits_of(
    weights: Weights, manifest: str, dtype: str, num_layers: int, *, count: int = 8, length: int = 192, seed: int = 1,
    say: Callable[[str], None] = lambda words: None,
) -> ModelLimits:  # fmt: skip
    """Raises `InvalidRequest` where the runs are too few to tell."""
    say("having the model write texts")
    written = texts(weights, getattr(torch, dtype), num_layers, count, length, seed)
    cuts = range(num_layers + 1)
    exact, own = (list(stages_of(weights, cuts, one)) for one in (torch.float32, getattr(torch, dtype)))
    means: dict[int, list[Floats]] = {layer: [] for layer in cuts[1:]}
    margins, sums = [], []
    for number, text in enumerate(written):
        say(f"computing text {number + 1} of {len(written)} in {1 + len(variants(own[0].dtype))} ways")
        truths = list(boundaries(exact, text[1], PROMPT - 1))
        for run in variants(own[0].dtype).values():
            for layer, (truth, claimed) in enumerate(zip(truths, run(own, text), strict=True), 1):
                kept = "float32" if layer == num_layers else dtype
                means[layer].append(block_means(_drift(claimed, truth, text[0].id, layer, kept)))
        drawn = redrawn(truths[-1], text[1], PROMPT - 1, text[0].sampling)
        if drawn is not None:
            margins.append(drawn.margins_S)
            sums.append(drawn.surprise_S.sum() / len(drawn.surprise_S) ** 0.5)
    found = {layer: calibrated(some, FALSE_ALARMS) for layer, some in means.items()}
    last = found[num_layers]
    found[num_layers] = DriftLimits(
        last.drift,
        FALSE_ALARMS,
        last.windows,
        margin_limit(np.concatenate(margins), FALSE_ALARMS, WITHIN),
        surprise_limit(np.array(sums), FALSE_ALARMS),
    )
    return ModelLimits(manifest, dtype, found, last.windows, tuple(variants(own[0].dtype)))


def _drift(claimed_TH: Tensor, truth_TH: Tensor, name: str, layer: int, dtype: str) -> Floats:
    where = places(key_of(name, layer), range(len(truth_TH)), truth_TH.shape[1])
    return drift(opened(taken(claimed_TH, where), dtype), truth_TH, where, dtype)
