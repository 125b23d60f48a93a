"""The placement as text."""

from muster.cli.placement_text import placement_lines

RING = [
    {"name": "ada", "region": "oslo", "first": 0, "last": 3, "latency_s": 0.02},
    {"name": "bob", "region": "lima", "first": 3, "last": 4, "latency_s": 0.05},
    {"name": "cy", "region": "osaka", "first": 4, "last": 8},
]


def test_the_ring_reads_from_left_to_right() -> None:
    assert placement_lines(RING) == [
        "╭ oslo ────────╮         ╭ lima ────────╮         ╭ osaka ───────╮",
        "│ ada          │  20 ms  │ bob          │  50 ms  │ cy           │",
        "│ layers 0–2   ├───────▶ │ layer 3      ├───────▶ │ layers 4–7   │",
        "╰──────────────╯         ╰──────────────╯         ╰──────────────╯",
    ]


def test_a_narrow_terminal_gets_more_rows_of_equal_boxes() -> None:
    lines = placement_lines(RING, width=40)
    assert len(lines) == 12
    assert max(map(len, lines)) <= 40


def test_nothing_placed_draws_nothing() -> None:
    assert placement_lines([]) == []
