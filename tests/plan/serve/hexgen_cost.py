"""The cost model of HexGen (arXiv 2311.11514) as its repository has it, for the worked values of its example.

github.com/Relaxed-System-Lab/HexGen at e86ff85, experimental/optimizer/cost_model.py: one rate m for arithmetic and for
memory, two all-reduces a layer, stages that send to one device, a cache that tensor parallelism does not divide.
"""

from collections.abc import Sequence

HIDDEN, BYTES, BATCH, PROMPT, OUTPUT = 8192, 2, 1, 32, 128
ALPHA_S, BETA, RATE = 1e-6, 1e11, 1e12
STEPS = OUTPUT - PROMPT


def cost(stages: Sequence[tuple[int, int]]) -> float:
    """Of one request; `stages`: (layers, tensor-parallel degree)."""
    once = sum(_stage(layers, degree, PROMPT) for layers, degree in stages)
    each = sum(_stage(layers, degree, 1) for layers, degree in stages)
    hops = len(stages) - 1
    return once + hops * _hop(PROMPT) + STEPS * (each + hops * _hop(1))


def _stage(layers: int, degree: int, tokens: int) -> float:
    reading = 12 * HIDDEN**2 * BYTES / RATE
    computing = 24 * BATCH * tokens * HIDDEN**2 / RATE
    part = BATCH * tokens * HIDDEN * BYTES / (degree * BETA)
    return layers * (reading + computing) / degree + 2 * (degree - 1) * (ALPHA_S + part) * 2 * layers


def _hop(tokens: int) -> float:
    return ALPHA_S + BATCH * tokens * HIDDEN * BYTES / BETA


def gibibytes(layers: int, degree: int) -> float:
    """Of each device."""
    text = BATCH * (PROMPT + OUTPUT) * HIDDEN * BYTES
    return (layers * (12 * HIDDEN**2 * BYTES / degree + 2 * text) + 4 * text) / 2**30
