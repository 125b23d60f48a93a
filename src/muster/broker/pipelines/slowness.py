"""Who computes far slower than it measured itself, judged by the ring that it works in. Pure.

All machines of a ring compute the same steps, so what each was busy in the same while, held against its forecast,
should be alike, whatever the requests are. One that needs twice what the others need, thrice in a row, counts as so
much slower from then on, until it is as fast as they are again, or was left alone for long enough to be tried again. A
machine that serves alone has nobody to be compared with, and one that also makes up how long it was busy is not seen
through here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.broker.members.membership import Membership
from muster.broker.pipelines.placement import FORECAST_TOKENS, Placement
from muster.cost.roofline import stage_seconds
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import NodeId

WINDOW_S = 10.0
"""Busy seconds are compared over so long: heartbeats come every second, so both ends are blurred a little."""
IN_A_ROW = 3
"""Windows that must agree: what lasts for one of them shows up in two."""
LEAST_BUSY_S = 1.0
"""A ring in which nobody was busy for longer says nothing."""
SLOW, CHANGED = 2.0, 1.5
"""So many times slower than the others counts; so many times slower or faster than believed is news."""
MOST = 16.0
"""Slower than that, next to what others claim, makes no difference; and a neighbour's made-up figure should not take a
machine's good name."""
TRY_AGAIN_S = 600.0
"""After so long without work."""


@dataclass(slots=True)
class _Window:
    epoch: int
    start_s: float
    busy_s: dict[NodeId, float]
    before: tuple[dict[NodeId, float], ...] = ()
    """How slow each was in the windows before this one, the latest last."""


class Slowness:
    def __init__(self, members: Membership, shape: ModelShape) -> None:
        self._members, self._shape = members, shape
        self._window = _Window(0, 0.0, {})

    def look(self, serving: Placement | None, now_s: float) -> bool:
        """Whether somebody turned out to be slower or faster than was believed; called now and then."""
        tried_again = self._try_again(serving, now_s)
        if serving is None or len(serving.nodes) < 2:
            return tried_again
        busy_s = {node: self._members.members[node].busy_s for node in serving.nodes}
        if self._window.epoch != serving.epoch:
            self._window = _Window(serving.epoch, now_s, busy_s)
        if now_s - self._window.start_s < WINDOW_S:
            return tried_again
        found = (*self._window.before, self._compared(serving, busy_s))[-IN_A_ROW:]
        self._window = _Window(serving.epoch, now_s, busy_s, found)
        if len(found) < IN_A_ROW or not all(found):
            return tried_again
        news = [self._believe(node, [slow[node] for slow in found], now_s) for node in serving.nodes]
        return any(news) or tried_again

    def _compared(self, serving: Placement, busy_s: Mapping[NodeId, float]) -> dict[NodeId, float]:
        """How many times longer than the others each was busy, by its forecast; empty where that cannot be said."""
        spent = {node: busy_s[node] - self._window.busy_s[node] for node in busy_s}
        if max(spent.values()) < LEAST_BUSY_S or min(spent.values()) <= 0:
            return {}
        ratios = {stage.node: spent[stage.node] / self._forecast(stage) for stage in serving.pipeline.stages}
        usual = sorted(ratios.values())[(len(ratios) - 1) // 2]
        return {node: ratio / usual for node, ratio in ratios.items()}

    def _forecast(self, stage: Stage) -> float:
        device = self._members.members[stage.node].device
        assert device is not None, "whoever serves was measured"
        return stage_seconds(self._shape, stage.first, stage.last, device, FORECAST_TOKENS)

    def _most(self, node: NodeId) -> float:
        """How slow it may count: whoever claims a million times what others do may prove as many times slower."""
        whole = {
            member.id: self._forecast(Stage(member.id, 0, self._shape.num_layers))
            for member in self._members
            if member.device is not None
        }
        best = min(seconds for other, seconds in whole.items() if other != node)
        return MOST * max(1.0, best / max(whole[node], 1e-30))

    def _believe(self, node: NodeId, found: Sequence[float], now_s: float) -> bool:
        """All windows must agree. Whether that is news."""
        member = self._members.members[node]
        low, high = min(*found, self._most(node)), max(found)
        believed = low if low >= SLOW else 1.0 if high < SLOW / CHANGED else member.slowness
        member.slow_s = now_s
        if max(believed, member.slowness) < CHANGED * min(believed, member.slowness):
            return False
        member.slowness = believed
        return True

    def _try_again(self, serving: Placement | None, now_s: float) -> bool:
        """Forget the slowness of those who have had nothing to do for long; whether there were any."""
        slow = [member for member in self._members if member.slowness > 1.0 and now_s - member.slow_s > TRY_AGAIN_S]
        rested = [member for member in slow if serving is None or not serving.holds(member.id)]
        for member in rested:
            member.slowness = 1.0
        return bool(rested)
