"""In which order a stage computes its microbatches, forward and backward. Knows no times.

With S stages, m microbatches, and, interleaved, v chunks of each machine's layers (chunk c of stage s is c S + s in
order):

    GPipe        all forward, then all backward (Huang et al., 2019)
    1F1B         S - s - 1 forward, then one forward and one backward in turns, then what is left backward
                 (PipeDream-Flush; Narayanan et al., Megatron-LM, 2021, section 2.2)
    interleaved  as 1F1B, on chunks: S microbatches through one chunk, the same S through the next, and so on
"""

from typing import Literal, NamedTuple

from muster.errors import InvalidRequest
from muster.spec.workload import TrainWorkload


class MicrobatchPass(NamedTuple):
    """One microbatch through one chunk of a stage."""

    kind: Literal["forward", "backward"]
    chunk: int
    microbatch: int


def order(workload: TrainWorkload, stage: int, stages: int, microbatches: int, chunks: int) -> list[MicrobatchPass]:
    """Of one stage. Raises `InvalidRequest` on a number of chunks that cannot be."""
    if workload.schedule == "gpipe":
        return _in_turns(_forward(microbatches, 1, stages), _backward(microbatches, 1, stages), microbatches)
    if workload.schedule == "1f1b":
        warm_up = min(microbatches, stages - stage - 1)
        return _in_turns(_forward(microbatches, 1, stages), _backward(microbatches, 1, stages), warm_up)
    if chunks < 1:
        raise InvalidRequest(f"A machine's layers cannot be cut into {chunks} chunks; give at least 1.", "chunks")
    # A last round that is not full is one with gaps: without them, what is left is in the same order and waits for
    # nothing that comes later.
    whole = -(-microbatches // stages) * stages
    warm_up = min(whole * chunks, 2 * (stages - stage - 1) + (chunks - 1) * stages)
    turns = _in_turns(_forward(whole, chunks, stages), _backward(whole, chunks, stages), warm_up)
    return [work for work in turns if work.microbatch < microbatches]


def _in_turns(forward: list[MicrobatchPass], backward: list[MicrobatchPass], warm_up: int) -> list[MicrobatchPass]:
    found = forward[:warm_up]
    for forth, back in zip(forward[warm_up:], backward, strict=False):
        found += [forth, back]
    return found + backward[len(forward) - warm_up :]


def _forward(microbatches: int, chunks: int, stages: int) -> list[MicrobatchPass]:
    rounds = range(0, microbatches, stages) if chunks > 1 else (0,)
    size = stages if chunks > 1 else microbatches
    return [
        MicrobatchPass("forward", chunk, first + k) for first in rounds for chunk in range(chunks) for k in range(size)
    ]


def _backward(microbatches: int, chunks: int, stages: int) -> list[MicrobatchPass]:
    return [
        MicrobatchPass("backward", chunks - 1 - work.chunk, work.microbatch)
        for work in _forward(microbatches, chunks, stages)
    ]
