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
from muster.sim.faults import Weather
from muster.sim.line import World
from muster.sim.relay import Relay, TrainHop
from muster.sim.training_step import Step
from muster.spec.workload import TrainWorkload

CHUNKS = 2
"""Pieces of each machine's layers under the interleaved schedule."""


def pipeline_seconds(relay: Relay, workload: TrainWorkload, chunks: int = CHUNKS) -> float:
    """Until the last microbatch is back at the first stage."""
    if workload.schedule == "gpipe":
        return _gpipe(relay)
    if workload.schedule == "interleaved":
        return _interleaved(relay, workload, chunks)
    return _one_forward_one_backward(relay)


def _there_and_back_s(hop: TrainHop) -> float:
    return hop.forth.latency_s + hop.forth_wire_s + hop.back.latency_s + hop.back_wire_s


def _hops_s(relay: Relay) -> list[float]:
    return list(map(_there_and_back_s, relay.hops))


def _both(relay: Relay) -> list[float]:
    return [forth + back for forth, back in zip(relay.forward_s, relay.backward_s, strict=True)]


def _gpipe(relay: Relay) -> float:
    forth = max([*relay.forward_s, *(hop.forth_wire_s for hop in relay.hops)])
    back = max([*relay.backward_s, *(hop.back_wire_s for hop in relay.hops)])
    return sum(_both(relay)) + sum(_hops_s(relay)) + (relay.microbatches - 1) * (forth + back)


def _one_forward_one_backward(relay: Relay) -> float:
    both, hops, more = _both(relay), _hops_s(relay), relay.microbatches - 1
    whole_s = sum(both) + sum(hops)
    wires = [wire for hop in relay.hops for wire in (hop.forth_wire_s, hop.back_wire_s)]
    beat_s = max([*both, *wires])
    slowest_s = whole_s + more * beat_s
    for first in range(len(both)):
        for last in range(first + 1, len(both)):
            window = last - first + 1
            if more >= window:
                round_trip_s = sum(both[first : last + 1]) + sum(hops[first:last])
                slowest_s = max(slowest_s, whole_s + more / window * round_trip_s)
    return slowest_s


def _interleaved(relay: Relay, workload: TrainWorkload, chunks: int) -> float:
    """They are dealt out in rounds of one per stage; a last round that is not full takes as long as a full one."""
    stages, whole = len(relay.stages), copy(relay)
    whole.microbatches = -(-relay.microbatches // stages) * stages
    step = Step([whole], [0.0] * stages, workload, chunks, World(Events(), Weather(())))
    return step.run().pipeline_end_s


def last_backward_s(relay: Relay, whole_s: float, pieces: int) -> Sequence[float]:
    """When each stage is done with its last microbatch, or piece of one; the first stage is the last to be."""
    done = [whole_s]
    for backward_s, hop in zip(relay.backward_s, relay.hops, strict=False):
        done.append(done[-1] - backward_s / pieces - hop.back.latency_s - hop.back_wire_s)
    return done
