"""Whose move is not taken, from what it does to the loss, its size and its direction."""

import math

import pytest

from muster.train.judging import refused

Vector = list[float]


def gram(*moves: Vector) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in moves] for one in moves]


def gains(*of_each: float) -> list[list[float]]:
    """All pipelines say the same of a move."""
    return [[one] * len(of_each) for one in of_each]


HONEST = [[1.0, 0.2, 0, 0], [1.0, -0.1, 0.2, 0], [1.0, 0, -0.2, 0.1]]


@pytest.mark.parametrize(
    ("fourth", "gain", "taken"),
    [
        ([1.0, 0, 0, 0.2], 0.9, True),
        ([1.0, 0, 0, 0.2], 0.1, True),  # does little, but points where the others do
        ([1.0, 0, 0, 0.2], -0.3, True),
        ([1.0, 0, 0, 0.2], -0.6, False),  # does clear harm wherever it points
        ([-1.0, 0, 0, 0.2], -0.9, False),
        ([-1.0, 0, 0, 0.2], -0.01, False),
        ([-0.02, 0, 0, 1.0], 0.01, False),  # noise
        ([-0.02, 0, 0, 1.0], 0.8, True),  # does as much good as the others
        ([10.0, 0, 0, 2.0], 3.0, False),  # too long, whatever it does
        ([math.nan, 0, 0, 0], 1.0, False),
        ([math.inf, 0, 0, 0], 1.0, False),
    ],
)
def test_a_move_is_taken_that_helps_or_points_where_others_do(fourth: Vector, gain: float, taken: bool) -> None:
    assert refused(gram(*HONEST, fourth), gains(1.1, 0.9, 1.0, gain)) == (() if taken else (3,))


def test_one_that_lies_about_others_is_not_believed_and_about_itself_not_asked() -> None:
    moves = [*HONEST, [-1.0, 0, 0, 0.2]]
    told = gains(1.1, 0.9, 1.0, -0.9)
    for of_move in told:
        of_move[3] = -of_move[3]
    assert refused(gram(*moves), told) == (3,)


def test_of_two_the_one_that_does_harm_is_refused() -> None:
    assert refused(gram([1.0, 0.1], [-1.0, 0.1]), gains(0.5, -0.6)) == (1,)
    assert refused(gram([1.0, 0.1], [10.0, 1.0]), gains(0.5, 0.7)) == (1,)


def test_most_are_never_refused_and_nobody_where_no_move_helps() -> None:
    assert len(refused(gram([1.0], [-1.0], [math.nan], [50.0]), gains(1, -1, 0, 2))) == 1
    assert refused(gram(*HONEST), gains(-0.1, -0.2, -3.0)) == ()
