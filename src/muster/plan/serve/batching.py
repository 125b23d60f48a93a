"""How many steps in flight, how many sequences in each, and how much cache in host memory, for given stages.

With T the seconds of each stage at batch B, and the links' latencies L, a ring with N steps in flight steps every

    max(slowest T, longest wire, (sum of T + sum of L) / N)         and later where it waits for the long steps among
                                                                    them (`sim/serve/rounds.py`)

so N = ceil(S (1 + L / T)) leaves no bubble (DeServe, arXiv 2501.14784, section 4.1), and what the cache holds is
shared by N microbatches. With two slices of G pages that are swapped with host memory while others compute, a
microbatch has (P - 2 G) / N + G of P pages, where a slice must pass in the time of a step (section 4.2). The smallest N
and G are taken that lose next to nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from muster.sim.serve.rounds import around_s

Floats = npt.NDArray[np.float64]
ENOUGH = 0.998
"""Of the best rate; among settings that reach it the one that answers soonest is taken."""
_DENSE = 8
_LATE = 0.01
_SPREAD = 2.33
"""A normally distributed time is longer than its mean by so many deviations once in a hundred times."""
_LOADS = np.concatenate([np.geomspace(0.005, 0.3, 12), np.arange(0.35, 0.9, 0.05), np.arange(0.9, 0.995, 0.02)])


@dataclass(frozen=True)
class FixedCuts:
    """A pipeline whose cuts are fixed. Batches are those of the stage tables."""

    batches: Floats
    """[batch]."""
    seconds: Floats
    """[stage, batch], the mean step."""
    long_share: Floats
    """[batch]: of the steps, those with more prompts in them than the others."""
    long_seconds: Floats
    """[stage, batch], such a step, times their share."""
    long_wire_s: Floats
    """[hop, batch], the same."""
    prompt_seconds: Floats
    """[stage, batch], a step with a prompt in it."""
    quiet_seconds: Floats
    """[stage, batch], a step without a prompt."""
    quiet_share: Floats
    """[batch]: of the steps, those without a prompt."""
    room: Floats
    """[batch]: tokens of cache that the tightest stage has room for."""
    wire_s: Floats
    """[hop, batch]; the hops go around, so the last one leads back."""
    quiet_wire_s: Floats
    """[hop, batch], in a step without a prompt."""
    prompt_wire_s: Floats
    """[hop, batch], in a step with a prompt in it."""
    hops_s: float
    """Sum of the links' latencies around the ring."""
    swap_s_per_page: float
    """On the stage that takes longest; infinite where no host memory is lent."""
    host_pages: float
    """That the tightest stage has room for in host memory."""


@dataclass(frozen=True)
class Demand:
    """What requests ask of a pipeline."""

    pages_each: float
    """Pages that each running sequence takes, on the mean."""
    whole_pages: int
    """Of one request at its end."""
    output_tokens: int
    chunks: int
    """Steps that one prompt takes."""
    most_prompts: float
    """Prompts that one step can take in."""
    page_size: int
    max_batch: int
    max_microbatches: int
    swap: bool
    deadlines_s: tuple[float | None, ...] = (None,)
    """Count only what is answered within it; a setting is chosen for each."""


@dataclass(frozen=True)
class Setting:
    microbatches: int
    batch: float
    """Mean sequences in a step; the plan's batch is the next whole number."""
    num_pages: int
    swap_pages: int
    period_s: float
    requests_per_s: float
    in_time_per_s: float
    """As many as may come if nearly all are to be in time; without a deadline, all."""
    service_s: float
    """A request with the pipeline full."""
    idle_s: float
    """A request that has the pipeline to itself."""

    @property
    def whole_batch(self) -> int:
        return ceil(self.batch - 1e-9)


def best_settings(stages: FixedCuts, demand: Demand) -> tuple[Setting, ...]:
    """One for each of the deadlines; none if not even one request fits, or a link of the ring is down."""
    if not np.isfinite(stages.wire_s).all():
        return ()
    micro, batch, swap = _choices(stages, demand)
    if not len(batch):
        return ()
    period_s, service_s = _times(stages, demand, micro, batch, swap)
    rate = np.minimum(batch / demand.output_tokens, demand.most_prompts) / period_s
    soon = [rate] if demand.deadlines_s == (None,) else _in_time(stages, demand, micro, batch)
    idle_s, found = _idle(stages, demand), []
    for in_time in soon:
        # Where nothing is in time, what is soonest is the least bad.
        wanted = in_time if in_time.max() > 0 else 1.0 / service_s
        good = wanted >= ENOUGH * wanted.max()
        chosen = int(np.lexsort((swap, np.where(good, service_s, np.inf)))[0])
        pages = _pages(stages, demand, np.ceil(batch[chosen : chosen + 1]))
        found.append(
            Setting(
                microbatches=int(micro[chosen]),
                batch=float(batch[chosen]),
                num_pages=int(min(pages[0], micro[chosen] * np.ceil(batch[chosen]) * demand.whole_pages)),
                swap_pages=int(swap[chosen]),
                period_s=float(period_s[chosen]),
                requests_per_s=float(rate[chosen]),
                in_time_per_s=float(in_time[chosen]),
                service_s=float(service_s[chosen]),
                idle_s=idle_s,
            )
        )
    return tuple(found)


def _in_time(stages: FixedCuts, demand: Demand, micro: Floats, most: Floats) -> list[Floats]:
    """For each deadline the most that may come if 99 % are to be answered in time, where `most` may share a step.

    With q requests in service on the mean, each takes S(q); q varies by two thirds of itself over that time, and as it
    comes near to N x `most`, requests wait (both as in `sim/serve/steady_state.py`).
    """
    share = _LOADS[:, None]
    mean = np.maximum(1.0, share * most)
    n = np.broadcast_to(micro, mean.shape)
    period_s, service_s = (row.reshape(mean.shape) for row in _times(stages, demand, n.ravel(), mean.ravel(), None))
    _, more_s = (row.reshape(mean.shape) for row in _times(stages, demand, n.ravel(), 1.2 * mean.ravel(), None))
    running, places = n * mean, np.maximum(micro * most, 1.0)
    deviation_s = np.maximum(0.0, more_s - service_s) / (0.2 * running) * np.sqrt(2 / 3 * running)
    load = np.minimum(running / places, _LOADS[-1])
    chance = load ** (np.sqrt(2 * (places + 1)) - 1)
    wait_s = service_s / (2 * places * (1 - load)) * np.log(np.maximum(chance / _LATE, 1.0))
    rate = np.minimum(mean / demand.output_tokens, demand.most_prompts) / period_s
    late_s = service_s + _SPREAD * deviation_s + wait_s
    return [
        np.asarray(np.max(np.where(late_s <= (np.inf if limit_s is None else limit_s), rate, 0.0), axis=0))
        for limit_s in demand.deadlines_s
    ]


def _choices(stages: FixedCuts, demand: Demand) -> tuple[Floats, Floats, Floats]:
    """(N, B, G) of every setting that fits."""
    most = demand.max_microbatches if len(stages.seconds) > 1 else 1
    micro = np.arange(1.0, most + 1)
    whole = _batches(demand.max_batch)
    n, b = (grid.ravel() for grid in np.meshgrid(micro, whole, indexing="ij"))
    pages = _pages(stages, demand, b)
    # As many as fit without swap, which need not be a whole number for each microbatch.
    full = _pages(stages, demand, np.full(most, float(demand.max_batch)))
    exact = np.minimum((full + 1) / demand.pages_each / micro, demand.max_batch)
    exact = np.where(micro == 1, np.maximum(exact, 1.0), exact)
    # With fewer sequences than steps in flight, some of these would never be.
    fits = (exact >= 1) & (full >= demand.whole_pages)
    parts = [(micro[fits], exact[fits], np.zeros(fits.sum()))]
    if demand.swap and np.isfinite(stages.swap_s_per_page):
        swap = np.ceil((n * b * demand.pages_each - 1 - pages) / np.maximum(n - 2, 1e-9))
        useful = (n > 2) & (swap > 0) & (2 * swap <= pages) & (pages + (n - 2) * swap <= stages.host_pages)
        parts.append((n[useful], b[useful], swap[useful]))
    found = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return found[0], found[1], found[2]


def _batches(most: int) -> Floats:
    """The small ones, then in steps of about an eighth, and the largest."""
    values = list(range(1, min(_DENSE, most) + 1))
    while values[-1] < most:
        values.append(min(most, values[-1] + max(1, values[-1] // 8)))
    return np.array(values, dtype=np.float64)


def _pages(stages: FixedCuts, demand: Demand, batch: Floats) -> Floats:
    """That the tightest stage has room for beside the logits of so many sequences."""
    index = np.minimum(np.searchsorted(stages.batches, batch - 1e-9), len(stages.batches) - 1)
    return np.asarray(np.floor(stages.room[index] / demand.page_size))


def _times(
    stages: FixedCuts, demand: Demand, micro: Floats, batch: Floats, swap: Floats | None
) -> tuple[Floats, Floats]:
    """(period, time in service) of each setting; the same as `sim.serve.steady_state.steady_state`."""
    busy = mean = _at(stages, stages.seconds, batch)
    quiet = _at(stages, stages.quiet_seconds, batch)
    share = np.interp(batch, stages.batches, stages.long_share)
    long, long_wire = _at(stages, stages.long_seconds, batch), _at(stages, stages.long_wire_s, batch)
    if swap is not None and swap.any():
        # Only the quiet steps are as a rule too short for a slice to pass; then they take as long as that.
        slice_s = swap * stages.swap_s_per_page
        longer = np.maximum(slice_s - quiet, 0.0)
        busy = np.maximum(busy + np.interp(batch, stages.batches, stages.quiet_share) * longer, slice_s)
        long = np.maximum(long, share * slice_s)
    wire = _at(stages, stages.wire_s, batch)
    period_s = _period(stages, demand, micro, (busy, wire), (share, long, long_wire))
    # Between its own tokens a request meets only the prompts of others.
    own = 1 / np.maximum(micro * batch, 1.0)
    others_busy = busy - (mean - quiet) * own
    others_wire = wire - (wire - _at(stages, stages.quiet_wire_s, batch)) * own
    others = (share * (1 - own), long * (1 - own), long_wire * (1 - own))
    others_s = _period(stages, demand, micro, (others_busy, others_wire), others)
    prompt, prompt_wire = (_at(stages, table, batch) for table in (stages.prompt_seconds, stages.prompt_wire_s))
    longer = prompt.sum(axis=0) + prompt_wire.sum(axis=0) - busy.sum(axis=0) - wire.sum(axis=0)
    extra = np.maximum(longer, 0.0) + (demand.chunks - 1) * _alike(stages, micro, prompt, prompt_wire)
    hand_s = others_busy[0] * (1 - own) if len(busy) > 1 else 0.0
    turn_s = np.clip(batch - 1, 0.0, 1.0) * period_s + hand_s
    return period_s, micro * (period_s + (demand.output_tokens - 1) * others_s) + extra + turn_s


def _period(
    stages: FixedCuts,
    demand: Demand,
    micro: Floats,
    mean: tuple[Floats, Floats],
    long: tuple[Floats, Floats, Floats],
) -> Floats:
    """`mean` is the seconds of stages and wires; `long` the share of long steps, and theirs times that share."""
    share, *seconds = long
    rows, all_rows = np.concatenate(seconds), np.concatenate(mean)
    bound = around_s(share, list(rows), list(all_rows - rows), micro, stages.hops_s, demand.chunks, _longest)
    return np.asarray(np.maximum(_alike(stages, micro, *mean), bound))


def _longest(rows: Iterable[Floats]) -> Floats:
    return np.asarray(np.max(np.array(rows), axis=0))


def _alike(stages: FixedCuts, micro: Floats, busy: Floats, wire: Floats) -> Floats:
    """The period of steps that all take this long."""
    around = busy.sum(axis=0) + wire.sum(axis=0) + stages.hops_s
    return np.asarray(np.maximum(np.maximum(busy.max(axis=0), wire.max(axis=0, initial=0.0)), around / micro))


def _idle(stages: FixedCuts, demand: Demand) -> float:
    """Seconds of one request alone."""
    one = np.ones(1)
    return float(_times(stages, demand, one, one, None)[1][0])


def _at(stages: FixedCuts, table: Floats, batch: Floats) -> Floats:
    """[row, setting], between the tabulated batches in a straight line."""
    return np.array([np.interp(batch, stages.batches, row) for row in table]).reshape(len(table), len(batch))
