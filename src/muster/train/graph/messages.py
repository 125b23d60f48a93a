"""What the machines of a network tell each other. Each message says which step, microbatch and value it is about."""

from dataclasses import dataclass

from muster.model.backends.base import Array

OUTSIDE = -1
"""Whoever gives the network its inputs and takes what it gives out; every piece has a number from 0 on."""


@dataclass(frozen=True)
class ValueMessage:
    """A value on its way forward."""

    source: int
    target: int
    step: int
    microbatch: int
    name: str
    value: Array


@dataclass(frozen=True)
class GradientMessage:
    """The gradient of a value on its way back to the piece that made it."""

    source: int
    target: int
    step: int
    microbatch: int
    name: str
    value: Array


@dataclass(frozen=True)
class SharedGradient:
    """The gradient of a parameter that several pieces hold, summed over the microbatches of a step."""

    source: int
    target: int
    step: int
    name: str
    value: Array


@dataclass(frozen=True)
class StepDone:
    """The piece has changed its weights."""

    source: int
    step: int


Message = ValueMessage | GradientMessage | SharedGradient | StepDone
