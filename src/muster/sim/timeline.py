"""Who did what from when to when: the bars of a Gantt chart. Knows nothing of how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SpanKind = Literal["forward", "backward", "decode", "prefill", "send", "exchange", "optimizer", "swap", "idle"]


@dataclass(frozen=True, slots=True)
class Span:
    lane: str
    """`stage_lane` for what a stage does, `link_lane` for what is sent."""
    start_s: float
    end_s: float
    kind: SpanKind
    label: str = ""
    """What the bar is about: `step 12`, `microbatch 3`."""


def stage_lane(node: str, devices: Sequence[int], device_count: int) -> str:
    """The node; with the devices of the stage where it has others: `rack 0,1`."""
    return node if len(devices) == device_count else f"{node} {','.join(map(str, devices))}"


def link_lane(source: str, target: str) -> str:
    return f"{source} -> {target}"
