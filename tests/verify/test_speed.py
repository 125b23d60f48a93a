"""Exercises of speed: what honest arithmetic of any precision answers is right, and nothing that is cheaper is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from muster.node.showing import ExerciseDeadline, end_numbers
from muster.verify.speed import BASE_COLUMNS, DTYPES, MAX_COLUMNS, OUTPUTS, SpeedExercise, sized

CPU = torch.device("cpu")
SEED = bytes(range(16))
ALL = np.arange(2 * BASE_COLUMNS, dtype=np.int64)


class Forever(ExerciseDeadline):
    def __init__(self) -> None:
        pass

    def check(self) -> None:
        pass


def exercise(dtype: str = "float32", size: int = 256) -> SpeedExercise:
    return SpeedExercise(SEED, dtype, size, rounds=4, columns=2 * BASE_COLUMNS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_honest_answer_is_right_in_every_precision(dtype: str) -> None:
    one = exercise(dtype)
    assert one.holds(end_numbers(one, CPU, Forever()), ALL[::16])


@pytest.mark.parametrize("flops_per_s", [1e9, 1e12, 1e15])
def test_what_half_precision_rounds_stays_within_the_tolerance_at_every_size(flops_per_s: float) -> None:
    # As an accelerator does it: sums in float32, results in bfloat16. Most processors would take minutes for that.
    one = replace(sized(SEED, "bfloat16", flops_per_s, 0.1), columns=BASE_COLUMNS)
    w = torch.tensor(one.weights()).float() * one.scale
    x = torch.tensor(one.inputs())[:, :32].float() / 128
    for _ in range(one.rounds):
        x = (w @ x).clamp(-1, 1).bfloat16().float()
    answer = torch.zeros(OUTPUTS, one.columns, dtype=torch.float16)
    answer[:, :32] = x[:OUTPUTS].half()
    assert one.holds(answer.numpy().tobytes(), np.arange(32))


def test_an_answer_of_another_seed_or_of_fewer_rounds_is_wrong() -> None:
    one = exercise()
    for other in (replace(one, seed=bytes(16)), replace(one, rounds=3)):
        assert not one.holds(end_numbers(other, CPU, Forever()), ALL[:16])


def test_columns_that_were_left_out_are_found() -> None:
    one = exercise()
    answer = np.frombuffer(end_numbers(one, CPU, Forever()), dtype="<f2").reshape(OUTPUTS, -1).copy()
    answer[:, 100] = 0
    assert not one.holds(answer.tobytes(), np.array([5, 100]))
    assert one.holds(answer.tobytes(), np.array([5, 101]))


def test_weights_of_less_rank_are_no_way_around_it() -> None:
    one = exercise()
    u, s, v = np.linalg.svd(one.weights().astype(np.float32) * one.scale)
    s[230:] = 0  # a tenth less to compute
    x = one.inputs().astype(np.float32) / 128
    for _ in range(one.rounds):
        x = np.clip((u * s) @ (v @ x), -1, 1)
    answer = np.concatenate([x[:OUTPUTS]] * 2, axis=1).astype("<f2")
    assert not one.holds(answer.tobytes(), ALL[:16])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_numbers_that_are_none_are_wrong(value: float) -> None:
    one = exercise()
    assert not one.holds(np.full((OUTPUTS, one.columns), value, dtype="<f2").tobytes(), ALL[:16])


def test_an_answer_of_another_size_is_wrong_and_no_error() -> None:
    one = exercise()
    assert not one.holds(b"", ALL[:1])
    assert not one.holds(bytes(one.answer_bytes + 2), ALL[:1])


@pytest.mark.parametrize("flops_per_s", [1.0, 1e9, 3e10, 1e12, 2e13, 1e18])
def test_an_exercise_is_as_long_as_it_should_be_as_far_as_exercises_go(flops_per_s: float) -> None:
    one = sized(SEED, "float32", flops_per_s, 0.1)
    assert one.is_reasonable()
    if 2e9 < flops_per_s < 1e14:
        assert one.flops / flops_per_s == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": MAX_COLUMNS + BASE_COLUMNS},
        {"columns": 0},
        {"columns": -BASE_COLUMNS},
        {"columns": 100},
        {"size": 10**6},
        {"rounds": 10**9},
        {"rounds": 1},
        {"dtype": "float64"},
        {"seed": b""},
    ],
)
def test_what_nobody_should_do_is_not_reasonable(changes: dict[str, object]) -> None:
    assert exercise().is_reasonable()
    assert not replace(exercise(), **changes).is_reasonable()
