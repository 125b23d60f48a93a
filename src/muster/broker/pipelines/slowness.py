"""Who computes far slower than it measured itself, judged by the ring that it works in. Pure.

All machines of a ring compute the same steps, so what each was busy in the same while, held against its forecast,
should be alike, whatever the requests are. One that needs twice what the others need, thrice in a row, counts as slower
from then on, by as much as explains that, until it is as fast as they are again, or was left alone for long enough to
be tried again. A machine that serves alone has nobody to be compared with, and one that also makes up how long it was
busy is not seen through here.

    seconds of a step = start + slowness x the rest      the start of a step takes what it takes on any machine
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from muster.broker.members.membership import Membership
from muster.broker.pipelines.placement import Placement
from muster.cost.pace import seconds
from muster.plan.quick.tables import PlanOptions
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
    def __init__(
        self, members: Membership, shape: Callable[[], ModelShape], forecasting: Callable[[float], PlanOptions]
    ) -> None:
        """`shape` gives the model as it is served now; `forecasting`: time -> the step that is forecast, and by which
        constants."""
        self._members, self._shape, self._forecasting = members, shape, forecasting
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
        forecasting = self._forecasting(now_s)
        forecasts = {stage.node: self._forecast(stage, forecasting) for stage in serving.pipeline.stages}
        found = (*self._window.before, self._compared(forecasts, busy_s))[-IN_A_ROW:]
        self._window = _Window(serving.epoch, now_s, busy_s, found)
        if len(found) < IN_A_ROW or not all(found):
            return tried_again
        most = self._most(serving.nodes, forecasting)
        news = [
            self._believe(node, forecasts[node], [times[node] for times in found], most[node], now_s)
            for node in serving.nodes
        ]
        return any(news) or tried_again

    def _compared(self, forecasts: Mapping[NodeId, _Forecast], busy_s: Mapping[NodeId, float]) -> dict[NodeId, float]:
        """How many times longer than the others each was busy, by its forecast; empty where that cannot be said."""
        spent = {node: busy_s[node] - self._window.busy_s[node] for node in busy_s}
        if max(spent.values()) < LEAST_BUSY_S or min(spent.values()) <= 0:
            return {}
        ratios = {node: spent[node] / forecast.seconds() for node, forecast in forecasts.items()}
        usual = sorted(ratios.values())[(len(ratios) - 1) // 2]
        return {node: ratio / usual for node, ratio in ratios.items()}

    def _forecast(self, stage: Stage, forecasting: PlanOptions) -> _Forecast:
        device = self._members.members[stage.node].device
        assert device is not None, "whoever serves was measured"
        work = forecasting.work(self._shape(), stage.first, stage.last)
        start_s, whole_s = (
            seconds(part, device, self._shape().dtype, forecasting.constants) for part in (work.times(0), work)
        )
        return _Forecast(start_s, max(whole_s - start_s, 1e-30))

    def _most(self, nodes: Sequence[NodeId], forecasting: PlanOptions) -> dict[NodeId, float]:
        """How slow each may count: whoever claims a million times what others do may prove as many times slower."""
        claimed_s = {
            member.id: self._forecast(Stage(member.id, 0, self._shape().num_layers), forecasting).rest_s
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

    def _try_again(self, serving: Placement | None, now_s: float) -> bool:
        """Forget the slowness of those who have had nothing to do for long; whether there were any."""
        slow = [member for member in self._members if member.slowness > 1.0 and now_s - member.slow_s > TRY_AGAIN_S]
        rested = [member for member in slow if serving is None or not serving.holds(member.id)]
        for member in rested:
            member.slowness = 1.0
        return bool(rested)
