"""The rounds of a dispute: the liar loses, in few rounds, whatever gets lost; what does not fit changes nothing."""

from math import ceil, log2
from random import Random

import msgspec
import pytest

from muster.errors import ProtocolViolation
from muster.verify.disputes.game import Game, Stated, TimePassed
from muster.verify.disputes.statements import Body, Pick, SilenceRuling, Withdrawal, opened, sign
from tests.verify.disputes.toys import (
    ACCUSED,
    ACCUSER,
    ANSWER_S,
    DISPUTE,
    JUDGE,
    STRANGER,
    Pass,
    Side,
    begun,
    chain,
    play,
)

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_lies_loses_in_few_rounds_whatever_is_lost(seed: int) -> None:
    random = Random(seed)
    layers, each = random.randint(1, 9), random.randint(1, 20)
    program = chain(layers, each)
    accused_lies = random.random() < 0.5
    wrong = random.randrange(layers * each)
    honest, lie = Pass(program), Pass(program, wrong)
    accused = Side(ACCUSED, lie if accused_lies else honest)
    accuser = Side(ACCUSER, honest if accused_lies else lie)
    if not accused_lies and random.random() < 0.5:
        accuser.pick = lambda truth: random.random() < 0.5
    outcome = play(begun(program), [accused, accuser], random, loss=random.choice([0.0, 0.3]))
    assert outcome.liars == (("accused",) if accused_lies else ("accuser",)), outcome
    assert outcome.rounds <= ceil(log2(layers)) + ceil(log2(each))
    if accused_lies:
        assert outcome.operator
        assert f"operator {wrong} of the accused" in outcome.reason


def test_whoever_is_silent_loses_and_not_before_the_deadline() -> None:
    program = chain(4, 4)
    outcome = play(
        begun(program), [Side(ACCUSED, Pass(program)), Side(ACCUSER, Pass(program, 3))], Random(1), silent=0.5
    )
    assert outcome.liars == ("accused",)
    assert "silent" in outcome.reason
    game = begun(program)
    game.handle(TimePassed(), ANSWER_S - 0.1)
    assert game.outcome is None
    game.handle(TimePassed(), ANSWER_S + 0.1)
    assert game.outcome is not None


def test_an_accuser_that_computes_the_same_loses_and_one_may_withdraw() -> None:
    program = chain(2, 2)
    accused, accuser = Side(ACCUSED, Pass(program)), Side(ACCUSER, Pass(program))
    assert play(begun(program), [accused, accuser], Random(0)).liars == ("accuser",)
    game, other = begun(program), Side(ACCUSER, Pass(program, 1))
    for side in (Side(ACCUSED, Pass(program)), other, Side(ACCUSED, Pass(program))):
        game.handle(Stated(side.answer(game)), 0.0)
    body = Body(dispute=DISPUTE, number=len(game.entries), previous=game.entries[-1].digest(), said=Withdrawal())
    game.handle(Stated(sign(ACCUSER, body)), 0.0)
    assert game.outcome is not None
    assert game.outcome.liars == ()


def test_who_says_two_things_at_one_place_has_lost() -> None:
    program = chain(2, 2)
    game = begun(program)
    game.handle(Stated(Side(ACCUSED, Pass(program)).answer(game)), 0.0)
    again = begun(program)
    other = Side(ACCUSED, Pass(program, 1)).answer(again)
    game.handle(Stated(other), 0.0)
    assert game.outcome is not None
    assert game.outcome.liars == ("accused",)
    assert "two different statements" in game.outcome.reason


def at_a_pick() -> Game:
    program = chain(4, 4)
    game, accused = begun(program), Side(ACCUSED, Pass(program, 9))
    for side in (accused, Side(ACCUSER, Pass(program)), accused):
        game.handle(Stated(side.answer(game)), 0.0)
    return game


def picked(game: Game, **changes: object) -> Body:
    fields = {"dispute": DISPUTE, "number": len(game.entries), "previous": game.entries[-1].digest()}
    return Body(**{**fields, "said": Pick(before=True), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda game: sign(STRANGER, picked(game)), "of neither side"),
        (lambda game: sign(ACCUSED, picked(game)), "where a Pick is due"),
        (lambda game: sign(ACCUSER, picked(game, dispute=bytes(32))), "belongs to another dispute"),
        (lambda game: sign(ACCUSER, picked(game, number=9)), "before its turn"),
        (lambda game: sign(ACCUSER, picked(game, previous=bytes(32))), "never said here"),
        (lambda game: sign(JUDGE, picked(game, said=SilenceRuling(node=ACCUSED.node_id))), "had nothing to say"),
        (lambda game: msgspec.structs.replace(sign(ACCUSER, picked(game)), signature=bytes(64)), "forged or changed"),
        (lambda game: msgspec.structs.replace(sign(ACCUSER, picked(game)), body=b"x"), "forged or changed"),
        (
            lambda game: msgspec.structs.replace(sign(ACCUSER, picked(game)), signer=STRANGER.node_id),
            "forged or changed",
        ),
        (lambda game: msgspec.structs.replace(sign(ACCUSER, picked(game)), body=bytes(2**24 + 1)), "larger than any"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_and_changes_nothing(make, says: str) -> None:
    game = at_a_pick()
    before = (game.entries, game.due, game.rounds)
    with pytest.raises(ProtocolViolation, match=says):
        game.handle(Stated(make(game)), 1.0)
    assert (game.entries, game.due, game.rounds) == before
    game.check()
    game.handle(Stated(sign(ACCUSER, picked(game))), 2.0)
    assert game.rounds == 1


def test_a_reveal_of_what_was_not_pledged_is_refused() -> None:
    program = chain(4, 4)
    game, accused = begun(program), Side(ACCUSED, Pass(program, 2))
    for side in (accused, Side(ACCUSER, Pass(program))):
        game.handle(Stated(side.answer(game)), 0.0)
    with pytest.raises(ProtocolViolation, match="did not pledge"):
        game.handle(Stated(Side(ACCUSED, Pass(program, 7)).answer(game)), 0.0)
    cut = msgspec.structs.replace(accused.answer(game), tensors=())
    with pytest.raises(ProtocolViolation, match="other tensors than it names"):
        game.handle(Stated(cut), 0.0)


def test_a_statement_names_what_it_follows() -> None:
    one = at_a_pick().entries[1]
    assert opened(one).number == 1
