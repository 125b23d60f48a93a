"""A sheet of paper in points (1/72 inch, y downwards) and the marks on it. Knows nothing of files or of plans."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

from muster.draw.palette import INK, QUIET
from muster.draw.words import printable

Point = tuple[float, float]
FONT = "DejaVu Sans"
"""Comes with matplotlib, and is wide: in a browser without it the text takes less room, never more."""


@dataclass(frozen=True, slots=True)
class Label:
    """`y` is the middle of the small letters' height, `x` the end that `align` names."""

    x: float
    y: float
    text: str
    size: float = 6.5
    colour: str = INK
    align: Literal["left", "center", "right"] = "left"
    bold: bool = False
    name: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 with the room that letters take above and below."""
        width = text_width(self.text, self.size, self.bold)
        left = self.x - {"left": 0.0, "center": width / 2, "right": width}[self.align]
        return left, self.y - self.size * 0.6, left + width, self.y + self.size * 0.6


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    fill: str
    edge: str = ""
    radius: float = 0.0
    line_width: float = 0.7
    name: str = ""


@dataclass(frozen=True, slots=True)
class Stroke:
    points: tuple[Point, ...]
    colour: str
    width: float = 0.8
    arrow: bool = False
    """Points the way at the last of `points`."""
    dashed: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """Many boxes of one colour, as one mark: thousands of them stay cheap."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """x, y, width, height."""
    fill: str
    name: str = ""


Mark = Label | Box | Stroke | Bars


@dataclass(slots=True)
class Sheet:
    """Marks lie in the order in which they were put there, later ones on top."""

    width: float = 0.0
    height: float = 0.0
    marks: list[Mark] = field(default_factory=list)

    def put(self, *marks: Mark) -> None:
        self.marks.extend(marks)

    def paste(self, other: "Sheet", x: float, y: float) -> None:
        self.marks.extend(moved(other.marks, x, y))

    def texts(self) -> list[Label]:
        return [mark for mark in self.marks if isinstance(mark, Label)]


def moved(marks: Iterable[Mark], x: float, y: float) -> list[Mark]:
    return [_moved(mark, x, y) for mark in marks]


def _moved(mark: Mark, x: float, y: float) -> Mark:
    if isinstance(mark, Stroke):
        return replace(mark, points=tuple((px + x, py + y) for px, py in mark.points))
    if isinstance(mark, Bars):
        return replace(mark, boxes=tuple((bx + x, by + y, width, height) for bx, by, width, height in mark.boxes))
    return replace(mark, x=mark.x + x, y=mark.y + y)


def stacked(sheets: Iterable[Sheet], gap: float, margin: float) -> Sheet:
    """One below the other, with `margin` around."""
    page = Sheet()
    y = margin
    for sheet in sheets:
        page.paste(sheet, margin, y)
        page.width = max(page.width, sheet.width + 2 * margin)
        y += sheet.height + gap
    page.height = y - gap + margin
    return page


@cache
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Points. A letter that the font does not have is counted as a full square."""
    font = font_properties(size, bold)
    known = get_font(findfont(font)).get_char_index
    drawn = "".join(letter for letter in text if known(ord(letter)))
    width, _, _ = text_to_path.get_text_width_height_descent(drawn, font, False) if drawn else (0.0, 0.0, 0.0)
    return float(width) + size * (len(text) - len(drawn))


@cache
def font_properties(size: float, bold: bool) -> FontProperties:
    return FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")


@cache
def fit(text: str, width: float, size: float = 6.5, bold: bool = False) -> str:
    """`text` on one line, shortened in the middle until it is at most `width` points wide."""
    text = printable(text)
    if text_width(text, size, bold) <= width:
        return text
    for kept in range(min(len(text), 200) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if text_width(short, size, bold) <= width:
            return short
    return "…"


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Lines of at most `width` points; a word that is longer is shortened."""
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(fit(word, width, size))
    return [line for line in lines if line]


def paragraph(text: str, width: float, size: float = 7.0, colour: str = QUIET) -> Sheet:
    sheet = Sheet(width=width)
    for index, line in enumerate(wrapped(text, width, size)):
        sheet.put(Label(0.0, size * (0.75 + 1.4 * index), line, size, colour))
        sheet.height = size * 1.4 * (index + 1)
    return sheet
