"""Who computes far slower than it measured itself, judged by the ring that it works in. Pure.

All machines of a ring compute the same steps, so what each was busy in the same while, held against its forecast,
should be alike, whatever the requests are. One that needs twice what the others need, thrice in a row, counts as slower
from then on, by as much as explains that, until it is as fast as they are again, or was left alone for long enough to
be tried again. A machine that serves alone has nobody to be compared with, one that works for several pipelines cannot
be judged by one of them, and one that also makes up how long it was busy is not seen through here.

    seconds of a step = start + slowness x the rest      the start of a step takes what it takes on any machine
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from muster.broker.events import PipelineId
from muster.broker.members.membership import Membership
from muster.broker.pipelines.placement import Placement
from muster.cost.pace import seconds
from muster.plan.quick.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.plan import ServeSettings, Stage
from muster.spec.pool import NodeId

WINDOW_S = 10.0
"""Busy seconds are compared over so long: heartbeats come every second, so both ends are blurred a little."""
IN_A_ROW = 3
"""Windows that must agree: what lasts for one of them shows up in two."""
LEAST_BUSY_S = 1.0
"""A ring in which nobody was busy for longer says nothing."""
SLOW, CHANGED = 2.0, 1.5
"""So many times longer than the others counts; so many times longer or shorter than believed is news."""
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


@dataclass(frozen=True, slots=True)
class _Forecast:
    """Of a stage's step on a machine as it measured itself."""

    start_s: float
    rest_s: float

    def seconds(self, slowness: float = 1.0) -> float:
        return self.start_s + slowness * self.rest_s

    def slowness(self, times: float) -> float:
        """Of a machine that needs so many times the forecast."""
        return 1.0 + (times - 1.0) * self.seconds() / self.rest_s


class Slowness:
    def __init__(self, members: Membership, forecasting: Callable[[PipelineId, float], PlanOptions]) -> None:
        """`forecasting`: pipeline, time -> the step that is forecast, and by which constants."""
        self._members, self._forecasting = members, forecasting
        self._windows: dict[PipelineId, _Window] = {}

    def look(self, serving: Collection[Placement], now_s: float) -> bool:
        """Whether somebody turned out to be slower or faster than was believed; called now and then."""
        works_for = Counter(node for placement in serving for node in placement.nodes)
        tried_again = self._try_again(works_for, now_s)
        # Steps of other work than serving are of other sizes than are forecast here.
        serving = [placement for placement in serving if isinstance(placement.pipeline.work, ServeSettings)]
        alone = [placement for placement in serving if all(works_for[node] == 1 for node in placement.nodes)]
        news = [self._judge(placement, now_s) for placement in alone if len(placement.ring) > 1]
        return any(news) or tried_again

    def _judge(self, serving: Placement, now_s: float) -> bool:
        """By each other, the machines of one ring; whether there is news."""
        busy_s = {node: self._members.members[node].busy_s for node in serving.ring}
        window = self._windows.get(serving.id)
        if window is None or window.epoch != serving.epoch:
            window = self._windows[serving.id] = _Window(serving.epoch, now_s, busy_s)
        if now_s - window.start_s < WINDOW_S:
            return False
        shape, forecasting = serving.model.shape, self._forecasting(serving.id, now_s)
        forecasts = {stage.node: self._forecast(shape, stage, forecasting) for stage in serving.pipeline.stages}
        found = (*window.before, _compared(forecasts, window.busy_s, busy_s))[-IN_A_ROW:]
        self._windows[serving.id] = _Window(serving.epoch, now_s, busy_s, found)
        if len(found) < IN_A_ROW or not all(found):
            return False
        most = self._most(shape, serving.ring, forecasting)
        news = [
            self._believe(node, forecasts[node], [times[node] for times in found], most[node], now_s)
            for node in serving.ring
        ]
        return any(news)

    def _forecast(self, shape: ModelShape, stage: Stage, forecasting: PlanOptions) -> _Forecast:
        device = self._members.members[stage.node].device
        assert device is not None, "whoever serves was measured"
        work = forecasting.work(shape, stage.first, stage.last).times(1 / stage.degree)
        start_s, whole_s = (seconds(part, device, shape.dtype, forecasting.constants) for part in (work.times(0), work))
        return _Forecast(start_s, max(whole_s - start_s, 1e-30))

    def _most(self, shape: ModelShape, nodes: Sequence[NodeId], forecasting: PlanOptions) -> dict[NodeId, float]:
        """How slow each may count: whoever claims a million times what others do may prove as many times slower."""
        claimed_s = {
            member.id: self._forecast(shape, Stage(member.id, 0, shape.num_layers), forecasting).rest_s
            for member in self._members
            if member.device is not None
        }
        best_s = {node: min(rest_s for other, rest_s in claimed_s.items() if other != node) for node in nodes}
        return {node: MOST * max(1.0, best_s[node] / claimed_s[node]) for node in nodes}

    def _believe(self, node: NodeId, forecast: _Forecast, found: Sequence[float], most: float, now_s: float) -> bool:
        """Of the times that it needed the forecast, all must agree. Whether that is news."""
        member = self._members.members[node]
        low, high = min(found), max(found)
        slow = min(forecast.slowness(low), most)
        believed = slow if low >= SLOW else 1.0 if high < SLOW / CHANGED else member.slowness
        member.slow_s = now_s
        before_s, after_s = forecast.seconds(member.slowness), forecast.seconds(believed)
        if max(before_s, after_s) < CHANGED * min(before_s, after_s):
            return False
        member.slowness = believed
        return True

    def _try_again(self, busy: Collection[NodeId], now_s: float) -> bool:
        """Forget the slowness of those who have had nothing to do for long; whether there were any."""
        slow = [member for member in self._members if member.slowness > 1.0 and now_s - member.slow_s > TRY_AGAIN_S]
        rested = [member for member in slow if member.id not in busy]
        for member in rested:
            member.slowness = 1.0
        return bool(rested)


def _compared(
    forecasts: Mapping[NodeId, _Forecast], before_s: Mapping[NodeId, float], busy_s: Mapping[NodeId, float]
) -> dict[NodeId, float]:
    """How many times longer than the others each was busy, by its forecast; empty where that cannot be said."""
    spent = {node: busy_s[node] - before_s[node] for node in busy_s}
    if max(spent.values()) < LEAST_BUSY_S or min(spent.values()) <= 0:
        return {}
    ratios = {node: spent[node] / forecast.seconds() for node, forecast in forecasts.items()}
    usual = sorted(ratios.values())[(len(ratios) - 1) // 2]
    return {node: ratio / usual for node, ratio in ratios.items()}
