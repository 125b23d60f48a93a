"""What is asked of every replica, and the tables that all of the search shares. Knows no layout."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from muster.cost.codecs import message_bytes
from muster.cost.pace import Constants
from muster.plan.serve.batching import Demand
from muster.plan.serve.fleet import Fleet
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.stage_tables import Loads, StageTables
from muster.sim.serve.loads import prompt_load, step_loads
from muster.sim.serve.ring import CODEC_GRAIN_TOKENS, BatchRules, mean_pages
from muster.spec.model_shape import ModelShape
from muster.spec.workload import ServeWorkload

_FINE = 16
"""Tabulated batches grow by a factor of two up to here, then by about 1.4."""

_AROUND_THE_DEADLINE = (1.0, 0.5, 0.7, 1.4)
"""For a deadline, plans are made for these multiples of it; the simulator says which of them is best."""

_BENDS = 5
"""Prompts in one step up to which batches that bring another one are tabulated."""


@dataclass(frozen=True)
class Job:
    shape: ModelShape
    fleet: Fleet
    workload: ServeWorkload
    options: ServeOptions
    tables: StageTables
    """Of the mean step."""
    prompt_tables: StageTables
    """Of a step with a prompt, or a chunk of one, beside the others."""
    quiet_tables: StageTables
    """Of a step without a prompt."""
    long_tables: StageTables
    """Of the steps with more prompts in them than the others."""
    demand: Demand
    token_bytes: float
    """One token's hidden state on a link, in the strongest codec that it may carry."""

    def quiet_share(self, batch: int) -> float:
        """Of the steps of a batch: those without a prompt."""
        loads = self.tables.loads(batch)
        return sum(share for share, load in loads if not load.chunks) / sum(share for share, _ in loads)

    def long_share(self, batch: int) -> float:
        """Of the steps of a batch: those with more prompts in them than the others."""
        loads = self.tables.loads(batch)
        return sum(share for share, _ in loads[1:]) / sum(share for share, _ in loads) if len(loads) > 1 else 1.0

    @property
    def batches(self) -> tuple[int, ...]:
        return self.tables.batches


def make_job(
    shape: ModelShape, fleet: Fleet, workload: ServeWorkload, options: ServeOptions, constants: Constants
) -> Job:
    rules = BatchRules(prefill_tokens=options.workspace.prefill_tokens)
    batches = _batches(options.max_batch, _bends(workload, rules))
    most = min(options.max_tensor_parallel or 2**30, max(node.device_count for node in fleet.nodes))

    def mean_step(batch: int) -> Loads:
        prompts = min(batch / workload.output_tokens, rules.prefill_tokens / workload.prompt_tokens)
        return step_loads(workload, prompts, rules.prefill_tokens)

    def quiet(batch: int) -> Loads:
        return ((1.0, mean_step(batch)[0][1].without_prompts()),)

    def with_prompt(batch: int) -> Loads:
        decodes = mean_step(batch)[0][1].decodes
        return ((1.0, prompt_load(workload, decodes, rules.prefill_tokens)),)

    def long(batch: int) -> Loads:
        loads = mean_step(batch)
        return loads[1:] or loads

    common = (shape, fleet, constants, batches)
    return Job(
        shape=shape,
        fleet=fleet,
        workload=workload,
        options=options,
        tables=StageTables(*common, mean_step, options.workspace, most),
        prompt_tables=StageTables(*common, with_prompt, options.workspace, most),
        quiet_tables=StageTables(*common, quiet, options.workspace, most),
        long_tables=StageTables(*common, long, options.workspace, most),
        demand=_demand(workload, options, rules),
        token_bytes=min(message_bytes(shape, CODEC_GRAIN_TOKENS, one) for one in options.codecs) / CODEC_GRAIN_TOKENS,
    )


def _demand(workload: ServeWorkload, options: ServeOptions, rules: BatchRules) -> Demand:
    tokens = workload.prompt_tokens + workload.output_tokens - 1
    return Demand(
        pages_each=mean_pages(workload.prompt_tokens, workload.output_tokens, options.page_size) + 1,
        whole_pages=ceil(tokens / options.page_size),
        output_tokens=workload.output_tokens,
        chunks=ceil(workload.prompt_tokens / rules.prefill_tokens),
        most_prompts=rules.prefill_tokens / workload.prompt_tokens,
        page_size=options.page_size,
        max_batch=options.max_batch,
        max_microbatches=options.max_microbatches,
        swap=options.swap and options.objective in ("throughput", "cost"),
        deadlines_s=_deadlines(workload) if options.objective == "slo" else (None,),
    )


def _deadlines(workload: ServeWorkload) -> tuple[float | None, ...]:
    """Others beside the one asked for: a closed form errs on what is still in time, on either side."""
    assert workload.deadline_s is not None
    return tuple(times * workload.deadline_s for times in _AROUND_THE_DEADLINE)


def _bends(workload: ServeWorkload, rules: BatchRules) -> set[int]:
    """Batches at which the load of a step bends: every step has a prompt or chunk, or takes in as many as it can."""
    chunks = ceil(workload.prompt_tokens / rules.prefill_tokens)
    most = rules.prefill_tokens / workload.prompt_tokens * workload.output_tokens
    exact = [workload.output_tokens / chunks, most, *(workload.output_tokens * whole for whole in range(2, _BENDS))]
    return {rounded for value in exact for rounded in (int(value), ceil(value))}


def _batches(most: int, bends: set[int]) -> tuple[int, ...]:
    values = {1, most} | {bend for bend in bends if 1 <= bend <= most}
    values |= {int(value) for value in np.round(np.geomspace(1, most, max(2, round(2 * np.log2(most)) + 1)))}
    values |= {2**power for power in range(_FINE.bit_length()) if 2**power <= most}
    return tuple(sorted(values))
