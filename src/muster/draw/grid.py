"""Boxes in rows and columns and wires between them that never run through a box. Knows nothing of machines.

     V0     V1     V2        A wire between neighbours in a row is straight. Every other one leaves through a
H0  ────────────────────     gutter between two rows, on a lane of its own; to reach a row further away it climbs
     │ box │  │ box │        through a gutter between two columns. Gutters grow with their lanes.
H1  ────────────────────
     │ box │  │ box │
H2  ────────────────────
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from muster.draw.sheet import Point, text_width

Key = str
Cell = tuple[int, int]
"""Row, column."""
Vertical = tuple[float, float, float]
"""A piece of a wire that goes up or down: its x, and the y of both ends."""

LABEL_SIZE = 6.0
LABEL_STEP = 7.8
LANE = 4.5
LABELLED_LANE = 10.5
STUB = 5.0


@dataclass(frozen=True, slots=True)
class Arrow:
    source: Key
    target: Key
    label: tuple[str, ...] = ()
    """Parts: on one line above a lane, on lines of their own about a straight wire."""

    @property
    def line(self) -> str:
        return " · ".join(self.label)

    @property
    def rows(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Above and below a straight wire."""
        middle = (len(self.label) + 1) // 2
        return self.label[:middle], self.label[middle:]


@dataclass(frozen=True, slots=True)
class ArrowPath:
    wire: Arrow
    points: tuple[Point, ...]
    labels: tuple[tuple[Point, str], ...]
    """Middle of each piece of text, and the text."""


@dataclass(slots=True)
class Laid:
    width: float
    height: float
    corners: dict[Key, Point]
    routes: list[ArrowPath]


@dataclass(slots=True)
class _Segment:
    """A horizontal piece in gutter `gutter`, from x0 to x1 once these are known."""

    gutter: int
    x0: float = 0.0
    x1: float = 0.0
    label_lines: int = 0
    lane: int = 0


@dataclass(slots=True)
class _Plan:
    """How one wire will run, by gutters."""

    wire: Arrow
    leave: int
    arrive: int
    """Gutters between rows at its two ends."""
    trunk: int | None
    """The gutter between columns that it climbs through."""
    trunk_lane: int = 0
    x: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Where it leaves the source and reaches the target."""
    segments: list[_Segment] = field(default_factory=list)

    @property
    def is_upright(self) -> bool:
        return self.trunk is None and self.x[0] == self.x[1]


def snake(count: int, columns: int) -> list[Cell]:
    """Cells in which one follows the other as neighbours: to the right, then below to the left, and so on."""
    cells = [divmod(index, columns) for index in range(count)]
    return [(row, columns - 1 - column if row % 2 else column) for row, column in cells]


def lay(
    cells: Mapping[Key, Cell], sizes: Mapping[Key, tuple[float, float]], wires: Sequence[Arrow], gap: float
) -> Laid:
    """Where each box goes (centred in its cell), and the way of each wire. `gap`: the least room between boxes."""
    return _Layout(cells, sizes, wires, gap).laid()


class _Layout:
    def __init__(
        self, cells: Mapping[Key, Cell], sizes: Mapping[Key, tuple[float, float]], wires: Sequence[Arrow], gap: float
    ) -> None:
        self.cells, self.sizes, self.gap = cells, sizes, gap
        self.num_rows = 1 + max(row for row, _ in cells.values())
        self.num_columns = 1 + max(column for _, column in cells.values())
        self.straight = [wire for wire in wires if self._is_straight(wire)]
        self.plans = [self._plan(wire) for wire in wires if not self._is_straight(wire)]

    def laid(self) -> Laid:
        self._place_columns()
        self._place_ports()
        self._place_rows()
        corners = {key: self._corner(key) for key in self.cells}
        verticals = [piece for plan in self.plans for piece in _verticals(self._points(plan))]
        routes = [self._straight_route(wire, verticals) for wire in self.straight]
        routes += [self._route(plan, verticals) for plan in self.plans]
        return Laid(self.right[-1], self.bottom[-1], corners, routes)

    def _is_straight(self, wire: Arrow) -> bool:
        (row, column), (other_row, other_column) = self.cells[wire.source], self.cells[wire.target]
        return row == other_row and abs(column - other_column) == 1

    def _plan(self, wire: Arrow) -> _Plan:
        (row, column), (other_row, other_column) = self.cells[wire.source], self.cells[wire.target]
        if row == other_row:
            return _Plan(wire, row + 1, row + 1, None)
        leave, arrive = (row + 1, other_row) if row < other_row else (row, other_row + 1)
        trunk = other_column + (1 if column > other_column else 0)
        return _Plan(wire, leave, arrive, None if leave == arrive else trunk)

    def _place_columns(self) -> None:
        """`left[c]`, `mid[c]`: of column c. `right[v]`: the right end of gutter v. Trunks lie at its right."""
        lanes = self._trunk_lanes()
        widest = [max(self.sizes[key][0] for key in self._in_column(column)) for column in range(self.num_columns)]
        x = 0.0
        self.mid: list[float] = []
        self.right: list[float] = []
        for gutter in range(self.num_columns + 1):
            inner = 0 < gutter < self.num_columns
            room = max(self.gap if inner else 0.0, self._straight_room(gutter))
            x += room + (lanes[gutter] * LANE + 3 * STUB if lanes[gutter] else 0.0)
            self.right.append(x)
            if gutter < self.num_columns:
                self.mid.append(x + widest[gutter] / 2)
                x += widest[gutter]

    def _in_column(self, column: int) -> list[Key]:
        return [key for key, cell in self.cells.items() if cell[1] == column]

    def _straight_room(self, gutter: int) -> float:
        texts = [
            text
            for wire in self.straight
            if max(self.cells[wire.source][1], self.cells[wire.target][1]) == gutter
            for text in wire.label
        ]
        return max((text_width(text, LABEL_SIZE) + 12 for text in texts), default=0.0)

    def _trunk_lanes(self) -> list[int]:
        """Trunks of one gutter that meet in some row get lanes of their own."""
        count = [0] * (self.num_columns + 1)
        for gutter in range(self.num_columns + 1):
            here = [plan for plan in self.plans if plan.trunk == gutter]
            ends = [(min(plan.leave, plan.arrive), max(plan.leave, plan.arrive)) for plan in here]
            lanes = _lanes([(float(low), float(high)) for low, high in ends])
            for plan, lane in zip(here, lanes, strict=True):
                plan.trunk_lane = lane
            count[gutter] = max(lanes, default=-1) + 1
        return count

    def _place_ports(self) -> None:
        """Wires that leave a box at its top or bottom are spread over its width, by where they are bound."""
        ports: dict[tuple[Key, int], list[tuple[float, int, int]]] = {}
        for index, plan in enumerate(self.plans):
            ends = ((plan.wire.source, plan.leave), (plan.wire.target, plan.arrive))
            for end, (key, gutter) in enumerate(ends):
                other = self.mid[self.cells[ends[1 - end][0]][1]]
                bound = other if plan.trunk is None else self._trunk_x(plan)
                ports.setdefault((key, gutter), []).append((bound, index, end))
        taken: dict[int, list[float]] = {}
        for (key, gutter), wanted in sorted(ports.items(), key=lambda port: self._is_top(*port[0])):
            for x, (_, index, end) in self._spread(key, sorted(wanted)):
                if self._is_top(key, gutter):
                    x = _free(x, self.plans[index].x[1 - end], taken.get(gutter, ()))
                self.plans[index].x[end] = x
                taken.setdefault(gutter, []).append(x)

    def _spread(self, key: Key, wanted: list[tuple[float, int, int]]) -> list[tuple[float, tuple[float, int, int]]]:
        """A wire straight up or down keeps the middle of the box, so that it needs no corner."""
        middle, width = self.mid[self.cells[key][1]], self.sizes[key][0]
        if not any(bound == middle for bound, _, _ in wanted):
            return list(zip(_evenly(middle - width / 2, middle + width / 2, len(wanted)), wanted, strict=True))
        left = [port for port in wanted if port[0] < middle]
        right = [port for port in wanted if port[0] > middle]
        xs = _evenly(middle - width / 2, middle, len(left)), _evenly(middle, middle + width / 2, len(right))
        straight = [(middle, port) for port in wanted if port[0] == middle]
        return [*zip(xs[0], left, strict=True), *straight, *zip(xs[1], right, strict=True)]

    def _is_top(self, key: Key, gutter: int) -> bool:
        return gutter == self.cells[key][0]

    def _place_rows(self) -> None:
        """`bottom[h]`: the lower end of gutter h. `centre[r]`: the middle of row r."""
        for plan in self.plans:
            plan.segments = self._segments(plan)
        tallest = [max(self.sizes[key][1] for key in self._in_row(row)) for row in range(self.num_rows)]
        y = 0.0
        self.lane_y: dict[int, list[float]] = {}
        self.bottom: list[float] = []
        self.centre: list[float] = []
        for gutter in range(self.num_rows + 1):
            heights = self._lane_heights(gutter)
            inner = 0 < gutter < self.num_rows
            need = sum(heights) + (2 * STUB if heights else 0.0)
            room = max(self.gap if inner else 0.0, need)
            top = y + (room - sum(heights)) / 2
            self.lane_y[gutter] = [top + sum(heights[: lane + 1]) - 2 for lane in range(len(heights))]
            y += room
            self.bottom.append(y)
            if gutter < self.num_rows:
                self.centre.append(y + tallest[gutter] / 2)
                y += tallest[gutter]

    def _in_row(self, row: int) -> list[Key]:
        return [key for key, cell in self.cells.items() if cell[0] == row]

    def _trunk_x(self, plan: _Plan) -> float:
        assert plan.trunk is not None
        return self.right[plan.trunk] - 2 * STUB - LANE * (plan.trunk_lane + 0.5)

    def _segments(self, plan: _Plan) -> list[_Segment]:
        if plan.is_upright and plan.wire.label:
            return [self._beside(plan)]
        room = text_width(plan.wire.line, LABEL_SIZE) + 6 if plan.wire.label else 0.0
        if plan.trunk is None:
            return [self._wide_enough(_Segment(plan.leave, min(plan.x), max(plan.x), 1 if room else 0), room)]
        x = self._trunk_x(plan)
        first = _Segment(plan.leave, min(plan.x[0], x), max(plan.x[0], x))
        second = _Segment(plan.arrive, min(plan.x[1], x), max(plan.x[1], x))
        longer = first if first.x1 - first.x0 >= second.x1 - second.x0 else second
        longer.label_lines = 1 if room else 0
        self._wide_enough(longer, room)
        return [first, second]

    def _beside(self, plan: _Plan) -> _Segment:
        """The label of a wire straight up or down, one part below the other, on the side that fewer wires cross."""
        room = max(text_width(part, LABEL_SIZE) for part in plan.wire.label) + 4
        others = [x for other in self.plans if plan.leave in (other.leave, other.arrive) for x in other.x]

        def crossed(x0: float) -> tuple[bool, int]:
            outside = x0 < 0 or x0 + room > self.right[-1]
            return outside, sum(x0 < x < x0 + room for x in others)

        x0 = min((plan.x[0] + 3, plan.x[0] - 3 - room), key=crossed)
        return _Segment(plan.leave, x0, x0 + room, len(plan.wire.label))

    def _wide_enough(self, segment: _Segment, room: float) -> _Segment:
        """The label may be wider than what it stands on."""
        missing = max(0.0, room - (segment.x1 - segment.x0))
        low = min(max(0.0, segment.x0 - missing / 2), max(0.0, self.right[-1] - max(room, segment.x1 - segment.x0)))
        segment.x1 = max(segment.x1, low + room)
        segment.x0 = min(segment.x0, low)
        return segment

    def _lane_heights(self, gutter: int) -> list[float]:
        segments = [segment for plan in self.plans for segment in plan.segments if segment.gutter == gutter]
        lanes = _lanes([(segment.x0, segment.x1) for segment in segments])
        heights = [LANE] * (max(lanes, default=-1) + 1)
        for segment, lane in zip(segments, lanes, strict=True):
            segment.lane = lane
            need = LABELLED_LANE + LABEL_STEP * (segment.label_lines - 1) if segment.label_lines else LANE
            heights[lane] = max(heights[lane], need)
        return heights

    def _corner(self, key: Key) -> Point:
        (row, column), (width, height) = self.cells[key], self.sizes[key]
        return self.mid[column] - width / 2, self.centre[row] - height / 2

    def _side(self, key: Key, gutter: int) -> float:
        """The y at which a wire to `gutter` leaves the box."""
        y = self._corner(key)[1]
        return y + self.sizes[key][1] if gutter > self.cells[key][0] else y

    def _points(self, plan: _Plan) -> tuple[Point, ...]:
        levels = [self.lane_y[segment.gutter][segment.lane] for segment in plan.segments]
        (x0, x1), y0, y1 = plan.x, self._side(plan.wire.source, plan.leave), self._side(plan.wire.target, plan.arrive)
        if plan.trunk is None:
            return ((x0, y0), (x0, levels[0]), (x1, levels[0]), (x1, y1))
        x = self._trunk_x(plan)
        return ((x0, y0), (x0, levels[0]), (x, levels[0]), (x, levels[1]), (x1, levels[1]), (x1, y1))

    def _straight_route(self, wire: Arrow, verticals: Sequence[Vertical]) -> ArrowPath:
        row, column = self.cells[wire.source]
        other = self.cells[wire.target][1]
        y, forward = self.centre[row], 1 if other > column else -1
        start = self.mid[column] + forward * self.sizes[wire.source][0] / 2
        end = self.mid[other] - forward * self.sizes[wire.target][0] / 2
        half = max((text_width(text, LABEL_SIZE) for text in wire.label), default=0.0) / 2 + 2
        x = _clear((min(start, end) + half, max(start, end) - half), half, y, verticals)
        above, below = wire.rows
        labels = [((x, y - 2 - LABEL_STEP * (len(above) - index - 0.5)), text) for index, text in enumerate(above)]
        labels += [((x, y + 2 + LABEL_STEP * (index + 0.5)), text) for index, text in enumerate(below)]
        return ArrowPath(wire, ((start, y), (end, y)), tuple(labels))

    def _route(self, plan: _Plan, verticals: Sequence[Vertical]) -> ArrowPath:
        points = self._points(plan)
        segment = next((segment for segment in plan.segments if segment.label_lines), None)
        if segment is None:
            return ArrowPath(plan.wire, points, ())
        y = self.lane_y[segment.gutter][segment.lane] - LABELLED_LANE / 2
        if plan.is_upright:
            x, top = (segment.x0 + segment.x1) / 2, y - LABEL_STEP * (segment.label_lines - 1)
            return ArrowPath(
                plan.wire, points, tuple(((x, top + LABEL_STEP * i), t) for i, t in enumerate(plan.wire.label))
            )
        half = text_width(plan.wire.line, LABEL_SIZE) / 2 + 2
        x = _clear((segment.x0 + half, segment.x1 - half), half, y, verticals)
        return ArrowPath(plan.wire, points, (((x, y), plan.wire.line),))


def _evenly(low: float, high: float, count: int) -> list[float]:
    return [low + (high - low) * (place + 1) / (count + 1) for place in range(count)]


def _free(x: float, other_end: float, taken: Sequence[float]) -> float:
    """A little to the side where another wire already comes down from above; straight below its own start is fine."""
    while any(abs(x - old) < 4 and abs(x - other_end) > 0.01 for old in taken):
        x += 4.5
    return x


def _lanes(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """The lowest lane for each interval on which nothing else lies, the leftmost intervals first."""
    lanes = [0] * len(intervals)
    ends: list[float] = []
    for index in sorted(range(len(intervals)), key=lambda index: intervals[index]):
        low, high = intervals[index]
        lane = next((lane for lane, end in enumerate(ends) if end + 3 < low), len(ends))
        ends[lane : lane + 1] = [high]
        lanes[index] = lane
    return lanes


def _verticals(points: Sequence[Point]) -> list[Vertical]:
    pairs = pairwise(points)
    return [(x0, min(y0, y1), max(y0, y1)) for (x0, y0), (x1, y1) in pairs if x0 == x1 and y0 != y1]


def _clear(room: tuple[float, float], half: float, y: float, verticals: Sequence[Vertical]) -> float:
    """Where in `room` a label around x is crossed by the fewest wires, nearest the middle."""
    low, high = room
    middle = (low + high) / 2
    steps = [low + (high - low) * step / 24 for step in range(25)] if high > low else [middle]

    def crossed(x: float) -> int:
        return sum(abs(line - x) < half and top < y + 4 and bottom > y - 4 for line, top, bottom in verticals)

    return min(steps, key=lambda x: (crossed(x), abs(x - middle)))
