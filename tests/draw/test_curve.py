"""A loss curve: inside its sheet, both curves named, whatever the values are."""

import pytest

from muster.draw.curve import HEIGHT, MAX_POINTS, WIDTH, draw_curve, draw_curves
from muster.draw.render import svg
from muster.draw.sheet import Stroke


@pytest.mark.parametrize(
    ("losses", "held_out"),
    [
        ([(step, 4.0 / step) for step in range(1, 40)], [(10, 1.0), (30, 0.5)]),
        ([(1, 2.0)], []),
        ([(1, 2.0), (2, float("nan")), (3, 2.0)], []),
        ([(step, 1.0 + step % 7) for step in range(1, 5000)], [(4999, 3.0)]),
        ([], []),
    ],
)
def test_both_curves_lie_on_the_sheet_and_are_named(
    losses: list[tuple[int, float]], held_out: list[tuple[int, float]]
) -> None:
    sheet = draw_curve("Training tiny", losses, held_out)
    curves = [mark for mark in sheet.marks if isinstance(mark, Stroke) and mark.name]
    assert len(curves) == bool(losses) + bool(held_out)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for curve in curves for x, y in curve.points)
    assert all(len(curve.points) <= MAX_POINTS + 1 for curve in curves)
    assert "Training tiny" in svg(sheet)


def test_several_runs_have_a_line_and_a_name_each() -> None:
    curves = {f"case {index}": [(0, 2.0), (10, 1.0 + index)] for index in range(9)}
    sheet = draw_curves("Compared", curves)
    lines = [mark for mark in sheet.marks if isinstance(mark, Stroke) and mark.name]
    assert [mark.name for mark in lines] == list(curves)
    assert len({mark.colour for mark in lines[:7]}) == 7
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for mark in lines for x, y in mark.points)
