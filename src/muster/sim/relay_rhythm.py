"""How long a training step takes, in closed form: the pipeline, then what of the exchange it does not hide.

With stages s = 0 .. S-1 of f_s forward and b_s backward, t_s = f_s + b_s, m microbatches and w_s wire seconds:

    GPipe        sum t + hops + (m - 1) (max f + max b), a wire counting as a stage of its direction
    1F1B         sum t + hops + (m - 1) max t, as long as round trips fit their window: since every stage computes in
                 turns forward and backward, r - s + 1 microbatches take at least as long as from s to r and back
    interleaved  m max t + (sum t - max t) / v + hops, the bubble of 1F1B divided by v. Where links are slow, rounds of
                 S microbatches follow each other by v / (v + 1) of one's way through all chunks and back: so much
                 of them overlaps. That is a rule of thumb, mostly within a fifth of the simulation, worse on thin links

Huang et al., GPipe (2019); Narayanan et al., PipeDream-Flush and Megatron-LM (2021), section 2.2. For equal stages and
free links the first two are the textbook (p - 1 + m)(f + b).
"""

from collections.abc import Sequence

from muster.sim.relay import Relay, TrainHop
from muster.spec.workload import TrainWorkload

CHUNKS = 2
"""Pieces of each machine's layers under the interleaved schedule."""


def pipeline_seconds(relay: Relay, workload: TrainWorkload, chunks: int = CHUNKS) -> float:
    """Until the last microbatch is back at the first stage."""
    if workload.schedule == "gpipe":
        return _gpipe(relay)
    if workload.schedule == "interleaved":
        return _interleaved(relay, chunks)
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


def _interleaved(relay: Relay, chunks: int) -> float:
    both, wraps, stages = _both(relay), [relay.wrap] if relay.wrap else [], len(relay.stages)
    wires = [wire for hop in (*relay.hops, *wraps) for wire in (hop.forth_wire_s, hop.back_wire_s)]
    beat_s = max([*both, *(chunks * wire for wire in wires)])
    hops_s = chunks * sum(_hops_s(relay)) + (chunks - 1) * sum(map(_there_and_back_s, wraps))
    full_s = relay.microbatches * beat_s + (sum(both) - max(both)) / chunks + hops_s
    trip_s = sum(both) + hops_s
    rounds_s = (relay.microbatches / stages - 1) * trip_s * chunks / (chunks + 1)
    return max(full_s, trip_s + rounds_s + (stages - 1) * beat_s / chunks)


def last_backward_s(relay: Relay, whole_s: float) -> Sequence[float]:
    """When each stage is done with its last microbatch; the first stage is the last to be."""
    done = [whole_s]
    for backward_s, hop in zip(relay.backward_s, relay.hops, strict=False):
        done.append(done[-1] - backward_s - hop.back.latency_s - hop.back_wire_s)
    return done
