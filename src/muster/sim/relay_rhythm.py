"""How long a training step takes, in closed form: the pipeline, then what of the exchange it does not hide.

With stages s = 0 .. S-1 of f_s forward and b_s backward, t_s = f_s + b_s, m microbatches and w_s wire seconds:

    GPipe        sum t + hops + (m - 1) (max f + max b), a wire counting as a stage of its direction
    1F1B         sum t + hops + (m - 1) max t, as long as the round trip from each stage s fits its window:
                 it has at most S - s microbatches on their way, so S - s of them take at least that round trip
    interleaved  m max t + (sum t - max t) / v + v hops + (v - 1) from last to first: the bubble of 1F1B divided by v;
                 where links are slow, microbatches of one round wait for those of another, which is left out here

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
    for stage in range(len(both)):
        window = len(both) - stage
        round_trip_s = sum(both[stage:]) + sum(hops[stage:])
        slowest_s = max(slowest_s, whole_s + more // window * round_trip_s + more % window * beat_s)
    return slowest_s


def _interleaved(relay: Relay, chunks: int) -> float:
    both, wraps = _both(relay), [relay.wrap] if relay.wrap else []
    wires = [wire for hop in (*relay.hops, *wraps) for wire in (hop.forth_wire_s, hop.back_wire_s)]
    beat_s = max([*both, *(chunks * wire for wire in wires)])
    hops_s = chunks * sum(map(_there_and_back_s, relay.hops)) + (chunks - 1) * sum(map(_there_and_back_s, wraps))
    return beat_s * relay.microbatches + (sum(both) - max(both)) / chunks + hops_s


def last_backward_s(relay: Relay, whole_s: float) -> Sequence[float]:
    """When each stage is done with its last microbatch; the first stage is the last to be."""
    done = [whole_s]
    for backward_s, hop in zip(relay.backward_s, relay.hops, strict=False):
        done.append(done[-1] - backward_s - hop.back.latency_s - hop.back_wire_s)
    return done
