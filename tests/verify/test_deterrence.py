"""At the least rate a cheat gains nothing; below it, it does. The table says so too."""

import json
from math import inf

import pytest

from muster.cli.main import run_command
from muster.errors import InvalidRequest
from muster.verify.deterrence import Deterrence, least_rate


@pytest.mark.parametrize("detection", [0.3, 1.0])
@pytest.mark.parametrize("stages", [1, 5])
@pytest.mark.parametrize("stake", [1.0, 50.0])
def test_at_the_least_rate_a_cheat_gains_nothing(detection: float, stages: int, stake: float) -> None:
    gain = 0.02
    rate = least_rate(stake, gain, detection, stages)
    for factor, sign in ((0.9, 1), (1.0, 0), (1.1, -1)):
        found = Deterrence(factor * rate, stages, detection).found
        expected = (1 - found) * gain - found * stake
        assert expected == pytest.approx(0, abs=1e-12) if sign == 0 else expected * sign > 0
    assert Deterrence(rate, stages, detection).least_stake(gain) == pytest.approx(stake)


def test_many_cheated_requests_are_found_sooner_or_later() -> None:
    one = Deterrence(0.1, 5, 1.0)
    until = one.requests_until(0.99)
    assert (1 - one.found) ** until <= 0.01 < (1 - one.found) ** (until - 1)
    assert one.cost == pytest.approx(0.02)
    assert Deterrence(0.0, 5, 1.0).requests_until(0.99) == inf
    assert Deterrence(1.0, 1, 1.0).requests_until(0.99) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1.0, 1.0, 0.0, 4), "A detection of 0 is no share"),
        ((1.0, 1.0, 1.5, 4), "A detection of 1.5 is no share"),
        ((1.0, 1.0, float("nan"), 4), "A detection of nan is no share"),
        ((1.0, 1.0, 1.0, 0), "A ring of 0 stages cannot be"),
        ((-1.0, 1.0, 1.0, 4), "not below 0"),
        ((1.0, float("inf"), 1.0, 4), "not below 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given: tuple[float, float, float, int], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        least_rate(*given)


def test_the_table_names_the_least_rate(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", "--explain", "--stages", "5", "--stake", "10", "--gain", "0.01"]
    assert run_command(words) == 0
    assert "auditing 0.50% of requests makes honesty pay" in capsys.readouterr().out
    assert run_command([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["least_rate"] == pytest.approx(5 * 0.01 / 10.01)
    assert run_command(["audit", "--explain", "--stake", "0.0001"]) == 0
    assert "no rate makes honesty pay" in capsys.readouterr().out
    assert run_command(["audit"]) != 0
    assert "pass --explain" in capsys.readouterr().err
