"""A sheet as a matplotlib figure, and that as bytes, the same ones every time. Knows nothing of plans."""

import re
import warnings
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path

from muster.draw.palette import PAPER
from muster.draw.sheet import FONT, Bars, Box, Label, Mark, Point, Sheet, Stroke, font_properties

DOTS_PER_INCH = 160
MAX_DOTS = 12_000
"""Of a side of a png; a larger picture has fewer dots to the inch."""


def figure(sheet: Sheet) -> Figure:
    """One axes over the whole of it, in points from the upper left corner."""
    page = Figure(figsize=(sheet.width / 72, sheet.height / 72), facecolor=PAPER)
    axes = page.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, sheet.width)
    axes.set_ylim(sheet.height, 0)
    for order, mark in enumerate(sheet.marks):
        _draw(axes, mark, order + 1)
    return page


def svg(sheet: Sheet) -> str:
    """Text stays text: it can be searched, copied and read aloud."""
    drawn = _saved(sheet, "svg", dict.fromkeys(("Date", "Creator", "Format", "Type"))).decode("utf-8")
    once = f"text{{font-family: '{FONT}', Verdana, sans-serif}}</style>"
    return re.sub(r" font-family: [^;]*;", "", drawn).replace("</style>", once, 1)


def png(sheet: Sheet) -> bytes:
    return _saved(sheet, "png", {"Software": None})


def _saved(sheet: Sheet, suffix: str, metadata: dict[str, None]) -> bytes:
    """A letter that the font does not have is drawn as a square; saying so on stderr would help nobody."""
    out = BytesIO()
    dots = min(DOTS_PER_INCH, MAX_DOTS * 72 / max(sheet.width, sheet.height))
    settings = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "muster"})
    with settings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        figure(sheet).savefig(out, format=suffix, dpi=dots, metadata=metadata)
    return out.getvalue()


def _draw(axes: Axes, mark: Mark, order: int) -> None:
    match mark:
        case Label():
            _text(axes, mark, order)
        case Box():
            _box(axes, mark, order)
        case Stroke():
            _line(axes, mark, order)
        case Bars():
            _bars(axes, mark, order)


def _text(axes: Axes, mark: Label, order: int) -> None:
    axes.text(
        mark.x,
        mark.y + mark.size * 0.36,
        mark.text,
        color=mark.colour,
        ha=mark.align,
        va="baseline",
        fontproperties=font_properties(mark.size, mark.bold),
        parse_math=False,
        zorder=order,
        gid=mark.name or None,
    )


def _box(axes: Axes, mark: Box, order: int) -> None:
    corner, width, height = (mark.x, mark.y), mark.width, mark.height
    patch: Patch = Rectangle(corner, width, height)
    if mark.radius:
        patch = FancyBboxPatch(corner, width, height, boxstyle=f"round,pad=0,rounding_size={mark.radius}")
    patch.set(
        facecolor=mark.fill or "none",
        edgecolor=mark.edge or "none",
        linewidth=mark.line_width if mark.edge else 0.0,
        zorder=order,
        gid=mark.name or None,
    )
    axes.add_artist(patch)


def _line(axes: Axes, mark: Stroke, order: int) -> None:
    path = PathPatch(Path(list(mark.points)), fill=False, joinstyle="round", linestyle="--" if mark.dashed else "-")
    path.set(edgecolor=mark.colour, linewidth=mark.width, zorder=order, gid=mark.name or None)
    axes.add_artist(path)
    if mark.arrow:
        tip = _arrow_head(mark.points[-2], mark.points[-1], 2.2 + mark.width)
        axes.add_artist(Polygon(tip, facecolor=mark.colour, edgecolor="none", zorder=order))


def _arrow_head(tail: Point, tip: Point, size: float) -> list[Point]:
    length = max(((tip[0] - tail[0]) ** 2 + (tip[1] - tail[1]) ** 2) ** 0.5, 1e-9)
    along = (tip[0] - tail[0]) / length * size, (tip[1] - tail[1]) / length * size
    base = tip[0] - 1.4 * along[0], tip[1] - 1.4 * along[1]
    side = -along[1] * 0.8, along[0] * 0.8
    return [tip, (base[0] + side[0], base[1] + side[1]), (base[0] - side[0], base[1] - side[1])]


def _bars(axes: Axes, mark: Bars, order: int) -> None:
    corners = [
        point
        for x, y, width, height in mark.boxes
        for point in ((x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y))
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(mark.boxes)
    path = Path(corners, codes)
    axes.add_artist(PathPatch(path, facecolor=mark.fill, edgecolor="none", zorder=order, gid=mark.name or None))
