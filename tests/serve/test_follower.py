from dataclasses import replace

import pytest
import torch
from msgspec.structs import replace as changed

from muster.errors import ProtocolViolation
from muster.serve.follower import Follower
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import Admit, Row, Step, StepDone
from tests.serve.fake_stage import FakeCache, FakeStage

ADMIT = Admit(3, (1, 2, 3, 4, 5), 5, Sampling(temperature=0.0))
ROW = Row(3, 0, 5, (2, 0), 1)
STEP = Step(epoch=1, sequence=0, rows=(ROW,), admit=(ADMIT,))
HIDDEN = torch.tensor([[float(token), 0.0] for token in ADMIT.context], dtype=torch.float64)


def follower(last: bool = True) -> Follower[FakeCache]:
    return Follower(FakeStage(1, 2 if last else 3), FakeCache(4, 4), epoch=1)


def test_a_middle_stage_passes_the_step_on_and_the_last_one_answers():
    step, hidden = follower(last=False).run(STEP, HIDDEN)
    assert step is STEP
    assert hidden.shape == HIDDEN.shape
    done = follower().run(STEP, HIDDEN)
    assert isinstance(done, StepDone)
    assert (done.epoch, done.sequence, len(done.sampled)) == (1, 0, 1)


HUGE = 2**62
BAD_STEPS = {
    "another epoch": changed(STEP, epoch=2),
    "no rows": changed(STEP, rows=()),
    "a page that does not exist": changed(STEP, rows=(Row(3, 0, 5, (2, 4), 1),)),
    "a negative page": changed(STEP, rows=(Row(3, 0, 5, (2, -1), 1),)),
    "too few pages": changed(STEP, rows=(Row(3, 0, 5, (2,), 1),)),
    "too many pages": changed(STEP, rows=(Row(3, 0, 5, (2, 0, 1), 1),)),
    "a page twice": changed(STEP, rows=(Row(3, 0, 5, (2, 2), 1),)),
    "no tokens": changed(STEP, rows=(Row(3, 0, 0, (), 1),)),
    "a negative length": changed(STEP, rows=(Row(3, 5, -5, (), 1),)),
    "a negative start": changed(STEP, rows=(Row(3, -5, 10, (2, 0), 1),)),
    "a start beyond memory": changed(STEP, rows=(Row(3, HUGE, 5, (2, 0), 1),)),
    "a length beyond memory": changed(STEP, rows=(Row(3, 0, HUGE, (2, 0), 1),)),
    "a slot that is too large": changed(STEP, rows=(Row(HUGE, 0, 5, (2, 0), 1),)),
    "a negative slot": changed(STEP, rows=(Row(-3, 0, 5, (2, 0), 1),)),
    "one slot in two rows": changed(STEP, rows=(Row(3, 0, 2, (2,), 0), Row(3, 2, 3, (2, 0), 1))),
    "two rows that write one page": changed(STEP, rows=(Row(3, 0, 3, (2,), 0), Row(4, 0, 2, (2,), 1))),
    "a copy from nowhere": changed(STEP, copies=((9, 1),)),
    "a copy to nowhere": changed(STEP, copies=((1, -2),)),
    "two copies to one page": changed(STEP, copies=((1, 3), (2, 3))),
    "a slot that was never admitted": changed(STEP, admit=()),
    "a slot admitted twice": changed(STEP, admit=(ADMIT, ADMIT)),
    "a slot released too early": changed(STEP, release=(3,)),
    "an admission with a huge slot": changed(STEP, admit=(ADMIT, changed(ADMIT, slot=HUGE))),
    "an empty context": changed(STEP, admit=(changed(ADMIT, context=()),)),
    "a context beyond the cache": changed(STEP, admit=(changed(ADMIT, context=(1,) * 17),)),
    "a token outside the vocabulary": changed(STEP, admit=(changed(ADMIT, context=(1, 2, 3, 4, 37)),)),
    "a prompt longer than its context": changed(STEP, admit=(changed(ADMIT, num_prompt=6),)),
    "a temperature out of range": changed(STEP, admit=(changed(ADMIT, sampling=Sampling(temperature=-1.0)),)),
    "a bias outside the vocabulary": changed(STEP, admit=(changed(ADMIT, sampling=Sampling(logit_bias={40: 1.0})),)),
    "a grammar that was never prepared": changed(STEP, admit=(changed(ADMIT, grammar=7),)),
    "a grammar with a slot": changed(STEP, admit=(changed(ADMIT, sampling=Sampling(grammar="start: a")),)),
    "a grammar forgotten that was never prepared": changed(STEP, forget=(7,)),
    "a sample before the end": changed(STEP, rows=(Row(3, 0, 4, (2,), 1),)),
    "guesses that nobody made": changed(STEP, guesses=((1,),)),
    "guesses that did not come": changed(STEP, rows=(Row(3, 0, 6, (2, 0), 2),)),
    "fewer guesses than are sampled": changed(STEP, rows=(Row(3, 0, 7, (2, 0), 3),), guesses=((1,),)),
    "a guess outside the vocabulary": changed(STEP, rows=(Row(3, 0, 6, (2, 0), 2),), guesses=((37,),)),
    "guesses behind tokens that are not known": changed(STEP, rows=(Row(3, 0, 7, (2, 0), 2),), guesses=((1,),)),
    "more samples than tokens": changed(STEP, rows=(Row(3, 4, 1, (2, 0), 2),), guesses=((1,),)),
    "samples below none": changed(STEP, rows=(Row(3, 0, 4, (2,), -1),)),
    "more guesses than are allowed": changed(STEP, rows=(Row(3, 0, 37, (2, 0), 33),), guesses=((1,) * 32,)),
    "no sample at the end": changed(STEP, rows=(Row(3, 0, 5, (2, 0), 0),)),
}


@pytest.mark.parametrize("step", BAD_STEPS.values(), ids=BAD_STEPS.keys())
def test_a_step_that_does_not_fit_is_a_violation_and_touches_nothing(step):
    one = follower()
    length = min(max(sum(row.length for row in step.rows), 0), 20)
    with pytest.raises(ProtocolViolation, match=r"rebuilt|out of range"):
        one.run(step, torch.zeros(length, 2, dtype=torch.float64))
    assert (one._cache.tokens == -1).all()
    assert isinstance(one.run(STEP, HIDDEN), StepDone)


@pytest.mark.parametrize(
    "hidden", [HIDDEN[:4], HIDDEN[:, :1], HIDDEN[0], HIDDEN.float(), torch.zeros(0, 2, dtype=torch.float64)]
)
def test_a_hidden_state_of_another_shape_or_type_is_a_violation(hidden):
    with pytest.raises(ProtocolViolation, match="hidden state"):
        follower().run(STEP, hidden)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_hidden_state_that_is_no_number_is_a_violation_before_it_reaches_the_cache(number):
    hidden = HIDDEN.clone()
    hidden[3, 1] = number
    one = follower()
    with pytest.raises(ProtocolViolation, match="no number"):
        one.run(STEP, hidden)
    assert (one._cache.tokens == -1).all()


def test_a_step_that_needs_more_workspace_than_was_set_aside_is_a_violation():
    one = Follower(FakeStage(1, 2), FakeCache(4, 4), epoch=1, prefill_tokens=4)
    with pytest.raises(ProtocolViolation, match="5 prompt tokens where 4 are allowed"):
        one.run(STEP, HIDDEN)


def test_a_step_does_not_run_twice():
    one = follower()
    assert one.add(STEP, HIDDEN)
    assert one.take() == (STEP, HIDDEN)
    assert not one.add(STEP, HIDDEN)
    assert one.take() is None


def test_a_step_of_another_epoch_or_one_that_cannot_be_is_refused_when_it_comes():
    for step in (changed(STEP, epoch=2), changed(STEP, sequence=-1), changed(STEP, after=0)):
        with pytest.raises(ProtocolViolation):
            follower().add(step, HIDDEN)


def test_the_engine_and_the_follower_agree_on_a_slot_that_changes_hands():
    one = follower()
    one.run(STEP, HIDDEN)
    again = changed(
        STEP, sequence=1, release=(3,), admit=(replace_context(ADMIT, (7, 8)),), rows=(Row(3, 0, 2, (1,), 1),)
    )
    assert isinstance(one.run(again, HIDDEN[:2]), StepDone)


def replace_context(admit: Admit, context: tuple[int, ...]) -> Admit:
    return changed(admit, context=context, num_prompt=1, sampling=replace(admit.sampling, seed=4))
