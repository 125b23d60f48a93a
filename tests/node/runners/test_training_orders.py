"""What the head says of a round is checked before it becomes loops and memory."""

import pytest

from muster.errors import ProtocolViolation
from muster.node.runners.train.accept import check_round
from muster.wire.messages.base import Address
from muster.wire.messages.train import BeginRound, TrainingPlace


def begin(*places: tuple[int, int]) -> BeginRound:
    there = tuple(TrainingPlace(pipeline, stage, 1, Address("n")) for pipeline, stage in places)
    return BeginRound(epoch=1, round=1, pipeline=0, places=there, run="{}")


def test_a_round_has_every_stage_of_every_pipeline_in_order() -> None:
    check_round(begin((0, 0), (0, 1), (1, 0), (1, 1)))
    for wrong in (((0, 0), (1, 1)), ((0, 1), (0, 0)), ((0, 0), (0, 0)), ((-1, 0),)):
        with pytest.raises(ProtocolViolation):
            check_round(begin(*wrong))


def test_a_place_with_a_huge_number_makes_no_huge_list() -> None:
    with pytest.raises(ProtocolViolation, match="other places"):
        check_round(begin((0, 0), (0, 2**62)))
