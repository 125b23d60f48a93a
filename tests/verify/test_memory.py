"""Exercises of memory: sums of rows that only who holds them has in time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from muster.node.showing import filled_rows, row_sums
from muster.verify.memory import MAX_ROWS, ROW_BYTES, MemoryExercise, sized, weights_of
from tests.verify.test_speed import CPU, SEED, Forever

NONCE = bytes(16)


def test_whoever_holds_all_rows_answers_right_for_each_of_them() -> None:
    one = MemoryExercise(SEED, 40)
    answer = row_sums(filled_rows(one, CPU, Forever()), NONCE, Forever())
    assert one.holds(answer, NONCE, np.arange(40))


def test_every_row_depends_on_others() -> None:
    one = MemoryExercise(SEED, 40)
    rows = filled_rows(one, CPU, Forever())
    drawn = torch.stack([torch.frombuffer(bytearray(one.drawn(row)), dtype=torch.int64) for row in range(40)])
    assert not bool((rows == drawn).all(dim=1).any())


def test_an_answer_to_another_nonce_with_other_rows_or_of_another_size_is_wrong() -> None:
    one = MemoryExercise(SEED, 8)
    rows = filled_rows(one, CPU, Forever())
    every = np.arange(8)
    assert not one.holds(row_sums(rows, bytes(range(16)), Forever()), NONCE, every)
    rows[5, 17] += 1
    answer = row_sums(rows, NONCE, Forever())
    assert not one.holds(answer, NONCE, every)
    assert one.holds(answer, NONCE, np.array([1, 2, 3, 4]))
    assert not one.holds(b"", NONCE, every)


def test_words_that_are_multiplied_wrap_around_alike_everywhere() -> None:
    rows = torch.full((1, ROW_BYTES // 8), 2**63 - 1, dtype=torch.int64)
    with np.errstate(over="ignore"):
        wanted = (rows.numpy()[0] * weights_of(NONCE)).sum()
    assert row_sums(rows, NONCE, Forever()) == int(wanted).to_bytes(8, "little", signed=True)


@pytest.mark.parametrize("wanted", [0, 1, 10**6, 2**40])
def test_an_exercise_takes_about_what_is_wanted_as_far_as_exercises_go(wanted: int) -> None:
    one = sized(SEED, wanted)
    assert one.is_reasonable()
    assert one.rows * ROW_BYTES <= max(wanted, 4 * ROW_BYTES)


@pytest.mark.parametrize("changes", [{"rows": MAX_ROWS + 2}, {"rows": 7}, {"rows": 0}, {"rows": -4}, {"seed": b"x"}])
def test_what_nobody_should_hold_is_not_reasonable(changes: dict[str, object]) -> None:
    assert not replace(MemoryExercise(SEED, 40), **changes).is_reasonable()
