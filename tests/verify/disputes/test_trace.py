"""What a stage computes is written down so that it can be run again, in part or whole, to the same numbers."""

import pytest
import torch

from muster.verify.disputes.execute import advance
from muster.verify.disputes.interval import judge
from muster.verify.disputes.program import TracedOperator, Value
from muster.verify.disputes.trace import trace
from tests.model.families import FAMILIES, LAYERS
from tests.verify.disputes.stages import plain_stage, received, traced

HALVES = {"llama": torch.bfloat16, "gpt2": torch.bfloat16, "mixtral": torch.float16, "gemma2": torch.bfloat16}


@pytest.mark.parametrize("family", FAMILIES)
def test_operators_give_the_output_again_and_each_is_within_its_interval(family: str) -> None:
    one = traced(family, dtype=HALVES.get(family, torch.float32))
    values = advance(one.program.operators, one.inputs, one.held)
    assert torch.equal(values[one.program.outputs[0]].reshape(-1), one.output.reshape(-1))
    for operator in one.program.operators:
        finding = judge(operator, values, one.held, [values[made.number] for made in operator.made])
        assert not finding.is_outside, (operator.in_words(), finding)
        assert not finding.is_proven, (operator.in_words(), finding)


def test_the_pass_goes_on_from_what_is_alive_at_any_cut() -> None:
    one = traced("llama")
    program = one.program
    everything = advance(program.operators, one.inputs, one.held)
    for cut in range(len(program.operators)):
        state = {number: everything[number] for number in program.alive(cut)}
        after = advance(program.operators[cut:], state, one.held)
        assert torch.equal(after[program.outputs[0]], everything[program.outputs[0]]), cut


def test_two_machines_write_down_the_same_program_whatever_the_numbers_are() -> None:
    first, second = (plain_stage("qwen3-moe", 0, LAYERS) for _ in range(2))
    one, other = trace(first, received(first, 1)), trace(second, received(second, 2))
    assert one.program.operators == other.program.operators
    assert one.program.leaves() == other.program.leaves()
    assert one.program.segments == LAYERS


def test_a_write_through_a_view_makes_a_new_value() -> None:
    one = traced("deepseek-v3")
    written = [operator for operator in one.program.operators if operator.through]
    assert written
    values = advance(one.program.operators, one.inputs, one.held)
    for operator in written:
        before = operator.arguments[0]
        assert isinstance(before, Value)
        assert not torch.equal(values[before.number], values[operator.made[0].number])


def test_what_an_operator_says_is_all_that_its_bytes_say() -> None:
    import msgspec

    for operator in traced("gemma2").program.operators:
        assert msgspec.msgpack.decode(operator.packed(), type=TracedOperator) == operator
