"""Audits: whoever cheats is found and nobody else is, whatever one auditor of three says."""

import pytest

from muster.broker.audits.auditing import (
    AuditCommand,
    Auditing,
    AuditorsChanged,
    AuditTick,
    Opinion,
    ReceiptsIn,
    Recompute,
    Recomputed,
    Redo,
    Redone,
    Sanction,
)
from muster.broker.audits.reputation import AuditPolicy, Reputation
from muster.errors import ProtocolViolation
from tests.broker.audit_games import AUDITORS, RING, Game

ALWAYS = AuditPolicy(rate=1.0, newcomer_rate=1.0, patience_s=10.0)
SECRET = b"s" * 32


@pytest.mark.parametrize("seed", range(8))
def test_the_machine_that_cheats_is_banned_and_no_other(seed: int) -> None:
    game = Game(seed, trusted=seed % 2 == 0)
    game.play(60)
    assert [(one.node, one.kind) for one in game.sanctions] == [(game.guilty, "ban")], (game.way, game.lie)


@pytest.mark.parametrize("seed", range(8, 12))
def test_an_auditor_that_lies_bans_nobody_honest(seed: int) -> None:
    game = Game(seed, cheats=False, trusted=seed % 2 == 0)
    assert game.play(30) == []


def test_a_machine_that_errs_once_is_drained_and_banned_only_if_it_errs_again() -> None:
    game = Game(1, fails_once=True)
    (first,) = game.play(60)
    assert (first.node, first.kind) == (game.guilty, "drain")
    assert "right on the same inputs" in first.reason
    game.sanctions.clear()
    game.play(60)
    assert [(one.node, one.kind) for one in game.sanctions] == [(game.guilty, "ban")]


def auditing(*trusted: str, policy: AuditPolicy = ALWAYS) -> Auditing:
    one = Auditing(SECRET, policy)
    one.handle(AuditorsChanged(frozenset(AUDITORS), frozenset(trusted)), 0.0)
    return one


def opened(one: Auditing, request: str = "r") -> Recompute:
    (asked,) = one.handle(ReceiptsIn(request, 1, RING), 0.0)
    assert isinstance(asked, Recompute)
    return asked


def said(one: Auditing, asked: AuditCommand, opinion: Opinion) -> list[AuditCommand]:
    assert isinstance(asked, Recompute)
    return one.handle(Recomputed(asked.case, asked.auditor, opinion), 1.0)


def test_one_voice_against_somebody_is_not_enough_but_one_of_the_operators_own_is() -> None:
    one = auditing()
    (second,) = said(one, opened(one), "wrong")
    assert isinstance(second, Recompute)
    (redo,) = said(one, second, "wrong")
    assert isinstance(redo, Redo)
    own = auditing(AUDITORS[1])
    asked = opened(own)
    assert asked.auditor == AUDITORS[1]
    assert isinstance(said(own, asked, "wrong")[0], Redo)


def test_whoever_is_outvoted_is_remembered() -> None:
    one = auditing()
    first = opened(one)
    (second,) = said(one, first, "wrong")
    (third,) = said(one, second, "right")
    assert said(one, third, "right") == []
    assert one.reputation.of(first.auditor).outvoted == 1
    assert one.open == {}


def test_an_auditor_that_is_silent_is_replaced_and_where_none_is_left_the_case_ends() -> None:
    one = auditing()
    asked, now_s = opened(one), 0.0
    for _ in range(2):
        now_s += 11
        (asked,) = one.handle(AuditTick(), now_s)  # type: ignore[assignment]
        one.check()
    assert one.handle(AuditTick(), now_s + 11) == []
    assert one.open == {}
    with pytest.raises(ProtocolViolation, match="which it was not asked for"):
        said(one, asked, "wrong")


def test_an_opinion_that_nobody_asked_for_does_not_count() -> None:
    one = auditing()
    asked = opened(one)
    other = next(node for node in AUDITORS if node != asked.auditor)
    for case, auditor in ((asked.case, other), (99, asked.auditor)):
        with pytest.raises(ProtocolViolation, match="which it was not asked for"):
            one.handle(Recomputed(case, auditor, "wrong"), 1.0)
    with pytest.raises(ProtocolViolation, match="Nobody was asked to do case 0 again"):
        one.handle(Redone(asked.case, False), 1.0)


def test_a_machine_that_refuses_audits_is_drained() -> None:
    one, found = auditing(AUDITORS[0]), list[AuditCommand]()
    for number in range(60):
        asked = opened(one, f"r{number}")
        found += said(one, asked, "withheld" if asked.stage == 2 else "right")
        if found:
            break
    (sanction,) = found
    assert isinstance(sanction, Sanction)
    assert (sanction.node, sanction.kind) == (RING[2], "drain")
    assert "impossible" in sanction.reason


def test_nobody_of_a_ring_and_nobody_banned_judges_it() -> None:
    one = auditing()
    one.handle(AuditorsChanged(frozenset((*AUDITORS, *RING)), frozenset(RING)), 0.0)
    one.banned.add(AUDITORS[0])
    assert {opened(one, f"r{number}").auditor for number in range(20)} == set(AUDITORS[1:])


def test_those_who_have_shown_little_are_looked_at_more_often() -> None:
    reputation = Reputation()
    assert reputation.rate("new") == reputation.policy.newcomer_rate
    for _ in range(reputation.policy.settled_after):
        reputation.pass_("old", 0.0)
    assert reputation.rate("old") == pytest.approx(reputation.policy.rate)
    assert reputation.rate_of(("old", "new")) == reputation.policy.newcomer_rate
    reputation.strike("old", 0.0)
    assert reputation.rate("old") == 1.0
    reputation.pass_("old", reputation.policy.forget_s + 1)
    assert reputation.rate("old") == pytest.approx(reputation.policy.rate)


def test_draws_come_at_the_rate_and_follow_from_the_secret() -> None:
    policy = AuditPolicy(rate=0.1, newcomer_rate=0.1)
    drawn = []
    for secret in (SECRET, SECRET, b"t" * 32):
        one = auditing(policy=policy)
        one._secret = secret
        drawn.append([bool(one.handle(ReceiptsIn(f"r{number}", 1, RING), 0.0)) for number in range(1000)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert 60 < sum(drawn[0]) < 140
