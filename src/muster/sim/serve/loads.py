"""What the steps of a ring carry, and how often. Knows no machine."""

from collections.abc import Sequence
from math import ceil, exp, floor

from muster.sim.serve.stage_time import StepLoad
from muster.spec.workload import ServeWorkload

Loads = tuple[tuple[float, StepLoad], ...]
"""(share of the steps, what they carry), from those with the fewest prompts to those with the most."""
_RARE = 1e-4
_HALVINGS = 16


def chunks_of(workload: ServeWorkload, prefill_tokens: int) -> int:
    """Steps that a prompt takes."""
    return ceil(workload.prompt_tokens / prefill_tokens)


def step_loads(
    workload: ServeWorkload,
    prompts: float,
    prefill_tokens: int,
    decodes: float | None = None,
    at_random: bool = False,
) -> Loads:
    """Steps with and without a prompt chunk, where `prompts` requests start per step on the mean.

    Prompts are lumps: a mean over steps of different length is not the length of the mean step. They start as evenly
    as whole numbers can, because each takes the place of one that ended; or `at_random`.
    """
    decodes = prompts * (workload.output_tokens - 1) if decodes is None else decodes
    context = workload.prompt_tokens + workload.output_tokens / 2
    chunks = chunks_of(workload, prefill_tokens)
    mixes: list[tuple[float, tuple[tuple[int, int], ...], float]]
    if chunks == 1:
        lump, most = ((0, workload.prompt_tokens),), prefill_tokens // workload.prompt_tokens
        counts = _at_random(prompts, most) if at_random and prompts < most else _evenly(prompts)
        mixes = [(share, lump * count, float(count)) for share, count in counts]
    else:
        share = min(1.0, prompts * chunks)
        length = round(prompts * workload.prompt_tokens / share)
        # Attention grows evenly from the first chunk to the last, so those two stand for all.
        ends = ((0, length), (workload.prompt_tokens - length, length))
        mixes = [(1 - share, (), 0.0), *((share / 2, (end,), 1.0 / chunks) for end in ends)]
    return tuple(
        (share, StepLoad(decodes, context, lumps, decodes + ended))
        for share, lumps, ended in mixes
        if share > 0 and (lumps or decodes)
    )


def _evenly(mean: float) -> list[tuple[float, int]]:
    whole = floor(mean)
    return [(1 - mean + whole, whole), (mean - whole, whole + 1)]


def _at_random(mean: float, most: int) -> list[tuple[float, int]]:
    """Poisson, where a step takes at most so many; who finds no room comes in the next, so the mean stays the same."""
    low, high = mean, 2.0 * most + mean
    for _ in range(_HALVINGS if most > 1 else 0):
        middle = (low + high) / 2
        taken = sum(share * count for count, share in enumerate(_poisson(middle, most)))
        low, high = (middle, high) if taken < mean else (low, middle)
    shares = _poisson(low, most) if most > 1 else [1 - mean, mean]
    return [(share, count) for count, share in enumerate(shares) if share > _RARE]


def _poisson(mean: float, most: int) -> Sequence[float]:
    """All that is more counts as `most`."""
    shares, one = [], exp(-mean)
    for count in range(most):
        shares.append(one)
        one *= mean / (count + 1)
    return [*shares, max(0.0, 1 - sum(shares))]


def prompt_load(workload: ServeWorkload, decodes: float, prefill_tokens: int) -> StepLoad:
    """A step that takes in a prompt, or the middle one of its chunks, beside so many decodes."""
    context = workload.prompt_tokens + workload.output_tokens / 2
    chunks = chunks_of(workload, prefill_tokens)
    length = round(workload.prompt_tokens / chunks)
    return StepLoad(decodes, context, ((workload.prompt_tokens // 2 if chunks > 1 else 0, length),), decodes + 1)
