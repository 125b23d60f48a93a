"""Who did what from when to when: the bars of a Gantt chart. Knows nothing of how they are drawn."""

from dataclasses import dataclass
from typing import Literal

SpanKind = Literal["forward", "backward", "decode", "prefill", "send", "exchange", "optimizer", "swap", "idle"]


@dataclass(frozen=True, slots=True)
class Span:
    lane: str
    """The name of a node, or `a -> b` for a link."""
    start_s: float
    end_s: float
    kind: SpanKind
    label: str = ""
    """What the bar is about: `step 12`, `microbatch 3`."""


def link_lane(source: str, target: str) -> str:
    return f"{source} -> {target}"
