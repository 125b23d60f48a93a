"""How long a pipeline needs for its microbatches, in closed form; interleaved, by walking through the schedule.

With stages s = 0 .. S-1 of f_s forward and b_s backward, t_s = f_s + b_s, m microbatches and w_s wire seconds:

    GPipe        sum t + hops + (m - 1) (max f + max b), a wire counting as a stage of its direction
    1F1B         sum t + hops + (m - 1) max t, as long as round trips fit their window: since every stage computes in
                 turns forward and backward, r - s + 1 microbatches take at least as long as from s to r and back

Interleaved, that would be m max t + (sum t - max t) / v + hops, the bubble of 1F1B divided by v, were links and stages
alike: where they are not, who waits for whom depends on the whole order, and no formula that we know comes close.

Huang et al., GPipe (2019); Narayanan et al., PipeDream-Flush and Megatron-LM (2021), section 2.2. For equal stages and
free links the first two are the textbook (p - 1 + m)(f + b).
"""

from collections.abc import Sequence
from copy import copy

from muster.sim.events import Events
from muster.sim.faults import FaultTimeline
from muster.sim.network import Network
from muster.sim.train.pipeline_costs import PipelineCosts, TrainHop
from muster.sim.train.step import TrainStep
from muster.spec.workload import TrainWorkload

CHUNKS = 2
"""Pieces of each machine's layers under the interleaved schedule."""


def pipeline_seconds(costs: PipelineCosts, workload: TrainWorkload, chunks: int = CHUNKS) -> float:
    """Until the last microbatch is back at the first stage."""
    if workload.schedule == "gpipe":
        return _gpipe(costs)
    if workload.schedule == "interleaved":
        return _interleaved(costs, workload, chunks)
    return _one_forward_one_backward(costs)


def _there_and_back_s(hop: TrainHop) -> float:
    return hop.forth.latency_s + hop.forth_wire_s + hop.back.latency_s + hop.back_wire_s


def _hops_s(costs: PipelineCosts) -> list[float]:
    return list(map(_there_and_back_s, costs.hops))


def _both(costs: PipelineCosts) -> list[float]:
    return [forth + back for forth, back in zip(costs.forward_s, costs.backward_s, strict=True)]


def _gpipe(costs: PipelineCosts) -> float:
    forth = max([*costs.forward_s, *(hop.forth_wire_s for hop in costs.hops)])
    back = max([*costs.backward_s, *(hop.back_wire_s for hop in costs.hops)])
    return sum(_both(costs)) + sum(_hops_s(costs)) + (costs.microbatches - 1) * (forth + back)


def _one_forward_one_backward(costs: PipelineCosts) -> float:
    both, hops, more = _both(costs), _hops_s(costs), costs.microbatches - 1
    whole_s = sum(both) + sum(hops)
    wires = [wire for hop in costs.hops for wire in (hop.forth_wire_s, hop.back_wire_s)]
    beat_s = max([*both, *wires])
    slowest_s = whole_s + more * beat_s
    for first in range(len(both)):
        for last in range(first + 1, len(both)):
            window = last - first + 1
            if more >= window:
                round_trip_s = sum(both[first : last + 1]) + sum(hops[first:last])
                slowest_s = max(slowest_s, whole_s + more / window * round_trip_s)
    return slowest_s


def _interleaved(costs: PipelineCosts, workload: TrainWorkload, chunks: int) -> float:
    """They are dealt out in rounds of one per stage; a last round that is not full takes as long as a full one."""
    stages, whole = len(costs.stages), copy(costs)
    whole.microbatches = -(-costs.microbatches // stages) * stages
    step = TrainStep([whole], [0.0] * stages, workload, chunks, Network(Events(), FaultTimeline(())))
    return step.run().pipeline_end_s


def last_backward_s(costs: PipelineCosts, whole_s: float, pieces: int) -> Sequence[float]:
    """When each stage is done with its last microbatch, or piece of one; the first stage is the last to be."""
    done = [whole_s]
    for backward_s, hop in zip(costs.backward_s, costs.hops, strict=False):
        done.append(done[-1] - backward_s / pieces - hop.back.latency_s - hop.back_wire_s)
    return done
