"""The map: regions, their machines, who holds which layers, and the links between. Knows nothing of time or files.

Links between two regions are drawn as one wire, and so are links inside a region that are not hops from stage to stage
(the exchange of gradients), or are too many to follow with the eye. Links that the plan does not use are not drawn.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt

from muster.draw.card import card, chips, summary
from muster.draw.facts import Forecast, Machine, UsedLink, machines, used_links
from muster.draw.grid import LABEL_SIZE, Arrow, Laid, lay, snake
from muster.draw.palette import PAPER, QUIET, REGION, REGION_EDGE, load_colour, load_width
from muster.draw.sheet import Box, Label, Sheet, Stroke, fit, text_width
from muster.draw.words import bits_per_s, percent, seconds, span
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import NodeId, Pool

MAX_CARDS = 120
"""More machines at work than this are shown as one card for each region."""
MAX_REGIONS = 24
MAX_NAMED_IDLE = 64
MAX_LABELLED = 14
"""Wires inside one region with figures of their own."""
PAD = 8.0
CARD_WIDTH, ISLAND_WIDTH, SUMMARY_WIDTH = 122.0, 138.0, 150.0


@dataclass(frozen=True, slots=True)
class Region:
    name: str
    machines: tuple[Machine, ...]

    @property
    def at_work(self) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if machine.work)

    @property
    def idle(self) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if not machine.work)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Links that are drawn as one wire: both directions of one link at least."""

    source: str
    target: str
    """Ids of machines or names of regions; equal for what stays inside a region."""
    links: tuple[UsedLink, ...]

    @property
    def share(self) -> float | None:
        return max((link.share for link in self.links if link.share is not None), default=None)

    @property
    def one_way(self) -> bool:
        return len({(link.source, link.target) for link in self.links}) == 1

    def label(self, speed: bool = True) -> tuple[str, ...]:
        """How many, latency, bandwidth, codec, the highest load, as far as it is known."""
        pairs = {frozenset((link.source, link.target)) for link in self.links}
        parts = [f"{len(pairs)} links"] if len(pairs) > 1 else []
        if speed:
            parts += speeds(self.links)
        parts += [fit(" / ".join(codecs), 60, LABEL_SIZE) for codecs in [_codecs(self.links)] if codecs]
        if self.share is not None:
            what = "load" if all(link.share is not None for link in self.links) else "activations"
            parts.append(f"{what} {'≤ ' if len(pairs) > 1 else ''}{percent(self.share)}")
        return tuple(parts)


def _codecs(links: Iterable[UsedLink]) -> list[str]:
    return sorted({link.codec for link in links if link.codec})


def speeds(links: Sequence[UsedLink]) -> list[str]:
    latencies = [link.speed.latency_s for link in links]
    bandwidths = [link.speed.bandwidth_bytes_per_s for link in links]
    return [span(latencies, seconds), span(bandwidths, bits_per_s)]


def draw_map(plan: Plan, pool: Pool, shape: ModelShape, forecast: Forecast) -> Sheet:
    everyone = machines(plan, pool, shape, forecast)
    regions = _regions(everyone)
    place = {machine.node.id: region.name for region in regions for machine in region.machines}
    links = used_links(plan, pool, forecast)
    between = _bundles((place[link.source], place[link.target], link) for link in links if _apart(link, place))
    inside: dict[str, list[UsedLink]] = defaultdict(list)
    for link in links:
        if not _apart(link, place):
            inside[place[link.source]].append(link)
    drawer = _RegionDrawer(len(plan.pipelines), everyone)
    sheets = {region.name: drawer.draw(region, inside[region.name]) for region in regions}
    return _compose(regions, sheets, between)


def _apart(link: UsedLink, place: dict[NodeId, str]) -> bool:
    return place[link.source] != place[link.target]


def _regions(everyone: Iterable[Machine]) -> list[Region]:
    """In the order in which a token meets them. Of very many, the last ones count as one."""
    found: dict[str, list[Machine]] = defaultdict(list)
    for machine in everyone:
        found[machine.node.region].append(machine)
    names = list(found)
    if len(names) > MAX_REGIONS:
        kept, merged = names[: MAX_REGIONS - 1], names[MAX_REGIONS - 1 :]
        rest = [machine for name in merged for machine in found[name]]
        return [
            *(Region(name, tuple(found[name])) for name in kept),
            Region(f"{len(merged):,} more regions", tuple(rest)),
        ]
    return [Region(name, tuple(found[name])) for name in names]


def _bundles(links: Iterable[tuple[str, str, UsedLink]]) -> list[Bundle]:
    """By their two ends, whichever way they run."""
    found: dict[tuple[str, str], list[UsedLink]] = {}
    for source, target, link in links:
        key = (target, source) if (target, source) in found else (source, target)
        found.setdefault(key, []).append(link)
    return [Bundle(source, target, tuple(links)) for (source, target), links in found.items()]


def _compose(regions: Sequence[Region], sheets: dict[str, Sheet], between: Sequence[Bundle]) -> Sheet:
    sizes = {name: (sheet.width, sheet.height) for name, sheet in sheets.items()}
    num_columns = ceil(len(regions) / 2) if len(regions) <= 10 else ceil(sqrt(1.5 * len(regions)))
    if len(regions) <= 3:
        num_columns = len(regions)
    cells = dict(zip(sheets, snake(len(regions), num_columns), strict=True))
    wires = [Arrow(bundle.source, bundle.target, bundle.label()) for bundle in between]
    laid = lay(cells, sizes, wires, gap=16)
    page = Sheet(laid.width, laid.height)
    draw_wires(page, laid, {(bundle.source, bundle.target): bundle for bundle in between}, PAPER)
    for name, sheet in sheets.items():
        page.paste(sheet, *laid.corners[name])
    return page


def draw_wires(page: Sheet, laid: Laid, bundles: dict[tuple[str, str], Bundle], paper: str) -> None:
    """Every line first, then every label, so that no line runs through a text."""
    for route in laid.routes:
        bundle = bundles[str(route.wire.source), str(route.wire.target)]
        page.put(_line(route.points, bundle))
    for route in laid.routes:
        for (x, y), text in route.labels:
            width = text_width(text, LABEL_SIZE) + 3
            page.put(Box(x - width / 2, y - 3.6, width, 7.2, paper))
            page.put(Label(x, y, text, LABEL_SIZE, QUIET, "center"))


def _line(points: tuple[tuple[float, float], ...], bundle: Bundle) -> Stroke:
    name = f"links-{len(bundle.links)}-{bundle.links[0].source[:8]}-{bundle.links[0].target[:8]}"
    return Stroke(points, load_colour(bundle.share), load_width(bundle.share), bundle.one_way, name=name)


class _RegionDrawer:
    """What all regions of one map have in common."""

    def __init__(self, num_pipelines: int, everyone: Sequence[Machine]) -> None:
        at_work = [machine for machine in everyone if machine.work]
        self.num_pipelines = num_pipelines
        self.collapsed = len(at_work) > MAX_CARDS
        islands = any(machine.node.device_count > 1 for machine in at_work)
        self.card_width = ISLAND_WIDTH if islands else CARD_WIDTH
        num_regions = len({machine.node.region for machine in everyone})
        num_idle = len(everyone) - len(at_work)
        self.most_idle = MAX_NAMED_IDLE if num_idle <= MAX_NAMED_IDLE else max(2, MAX_NAMED_IDLE // num_regions)
        self.aspect = 3.0 if num_regions == 1 else 1.5

    def draw(self, region: Region, links: Sequence[UsedLink]) -> Sheet:
        hops = _bundles((link.source, link.target, link) for link in links if link.is_hop)
        if self.collapsed or len(hops) > max(4, 1.5 * len(region.at_work)):
            hops = []
        followed = {link for hop in hops for link in hop.links}
        rest = tuple(link for link in links if link not in followed)
        same = len({tuple(speeds([link])) for link in followed}) == 1 and len(hops) > 1
        inner = self._inner(region, hops, speed=not same)
        header = _header(region, [hop for hop in hops if same], Bundle(region.name, region.name, rest))
        return _framed(header, inner, chips(region.idle, max(inner.width, 110.0), self.most_idle))

    def _inner(self, region: Region, hops: Sequence[Bundle], speed: bool) -> Sheet:
        if not region.at_work:
            return Sheet()
        if self.collapsed:
            return summary(region.at_work, SUMMARY_WIDTH)
        cards = {machine.node.id: card(machine, self.card_width, self.num_pipelines) for machine in region.at_work}
        cells = dict(zip(cards, snake(len(cards), self._columns(region, hops)), strict=True))
        sizes = {node: (sheet.width, sheet.height) for node, sheet in cards.items()}
        labelled = len(hops) <= MAX_LABELLED
        wires = [Arrow(hop.source, hop.target, hop.label(speed) if labelled else ()) for hop in hops]
        laid = lay(cells, sizes, wires, gap=16 if wires else 8)
        inner = Sheet(laid.width, laid.height)
        draw_wires(inner, laid, {(hop.source, hop.target): hop for hop in hops}, REGION)
        for node, sheet in cards.items():
            inner.paste(sheet, *laid.corners[node])
        return inner

    def _columns(self, region: Region, hops: Sequence[Bundle]) -> int:
        """Towards a good shape of the region, without holes; even rows bring the end of a ring back to its start."""
        num_cards = len(region.at_work)
        height = 36 + 19 * sum(len(machine.work) for machine in region.at_work) / num_cards

        def badness(columns: int) -> float:
            rows = ceil(num_cards / columns)
            shape = columns * (self.card_width + (40 if hops else 8)) / (rows * height)
            holes = (rows * columns - num_cards) / columns
            return abs(log(shape / self.aspect)) + 0.6 * holes + (0.6 if hops and rows > 1 and rows % 2 else 0.0)

        return min(range(1, num_cards + 1), key=badness)


def _header(region: Region, hops: Sequence[Bundle], rest: Bundle) -> Sheet:
    sheet = Sheet()
    if region.name:
        name = fit(region.name, 130, 8, bold=True)
        sheet.put(Label(0, 5, name, 8, bold=True))
        sheet.width, sheet.height = text_width(name, 8, True), 12.0
    lines = [" · ".join(["inside", *speeds([link for hop in hops for link in hop.links])])] if hops else []
    lines += [" · ".join(["inside", *rest.label()])] if rest.links else []
    for line in lines:
        is_bundle = bool(rest.links) and line is lines[-1]
        start = 16.0 if is_bundle else 0.0
        if is_bundle:
            sheet.put(_line(((0, sheet.height + 5), (12, sheet.height + 5)), rest))
        sheet.put(Label(start, sheet.height + 5, line, LABEL_SIZE, QUIET))
        sheet.width = max(sheet.width, start + text_width(line, LABEL_SIZE))
        sheet.height += 10
    return sheet


def _framed(*parts: Sheet) -> Sheet:
    """A region: its name, its machines, those that stand by."""
    shown = [part for part in parts if part.marks]
    width = max(part.width for part in shown) + 2 * PAD
    frame = Sheet(width, sum(part.height + 4 for part in shown) - 4 + 2 * PAD)
    frame.put(Box(0, 0, width, frame.height, REGION, REGION_EDGE, 5))
    y = PAD
    for part in shown:
        frame.paste(part, (width - part.width) / 2 if part is parts[1] else PAD, y)
        y += part.height + 4
    return frame
