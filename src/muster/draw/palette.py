"""Colours by what they mean, apart also for the colour-blind (Okabe and Ito, 2008). Knows nothing of shapes."""

PAPER = "#ffffff"
INK = "#1b1f24"
QUIET = "#55606b"
REGION = "#f3f5f7"
REGION_EDGE = "#c3cad1"
CARD = "#fffffe"
CARD_EDGE = "#8a949e"
STANDBY = "#e4e7ea"
STANDBY_INK = "#626c76"
IDLE = "#edeff1"
RULE = "#d3d8de"

DARK = {
    PAPER: "#14171a",
    INK: "#e8ebee",
    QUIET: "#a7b0b9",
    REGION: "#1c2126",
    REGION_EDGE: "#3d464f",
    CARD: "#252b31",
    CARD_EDGE: "#6a7580",
    STANDBY: "#2d343b",
    STANDBY_INK: "#98a2ac",
    IDLE: "#23282d",
    RULE: "#343b42",
}
"""What the colours of paper and ink become on a dark screen; all the others serve on both."""

WEIGHTS, CACHE, OTHER = "#3b6ea5", "#7fb8de", "#b9a3c9"
TOO_FULL = "#d55e00"

LOADS = ((0.25, "#7ea6cc"), (0.5, "#2f6db0"), (0.8, "#e69f00"), (float("inf"), "#d55e00"))
"""Up to which share of a link's bandwidth, and the colour; thicker from step to step."""
LOAD_UNKNOWN = "#8d979f"

KINDS = {
    "prefill": "#e69f00",
    "decode": "#0072b2",
    "forward": "#0072b2",
    "backward": "#e69f00",
    "send": "#7d868e",
    "exchange": "#009e73",
    "optimizer": "#56b4e9",
    "swap": "#cc79a7",
}
ON_DARK, ON_LIGHT = "#fffefe", "#101112"
"""Ink on a bar."""


def ink_on(kind: str) -> str:
    return ON_DARK if kind in ("decode", "forward", "exchange") else ON_LIGHT


def load_colour(share: float | None) -> str:
    return LOAD_UNKNOWN if share is None else next(colour for limit, colour in LOADS if share < limit)


def load_width(share: float | None) -> float:
    """Points."""
    return 1.2 if share is None else 1.2 + 0.5 * [colour for _, colour in LOADS].index(load_colour(share))
