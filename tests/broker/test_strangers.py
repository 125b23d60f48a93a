"""However many strangers stand at the door, whoever joins in earnest gets in."""

from random import Random

import pytest

from muster.broker.strangers import MAX_FROM_ONE_SOURCE, MAX_STRANGERS, PATIENCE_S, Strangers


def crowd(*sources: str, each: int) -> Strangers[str]:
    strangers: Strangers[str] = Strangers()
    for source in sources:
        for i in range(each):
            assert strangers.enter(f"{source}-{i}", source, 0.0) == (True, None)
    return strangers


def test_one_address_leaves_room_for_the_others() -> None:
    strangers = crowd("evil", each=MAX_FROM_ONE_SOURCE)
    assert strangers.enter("one more", "evil", 0.5) == (False, None)
    assert strangers.enter("honest", "home", 0.5) == (True, None)


def test_many_addresses_make_way_for_one_that_has_less() -> None:
    strangers = crowd(*"abcd", each=MAX_STRANGERS // 4)
    assert strangers.enter("honest", "home", 0.0) == (True, "a-0")
    assert len(strangers) == MAX_STRANGERS


def test_who_is_silent_for_long_makes_way_even_for_its_own_address() -> None:
    strangers = crowd("nat", each=MAX_FROM_ONE_SOURCE)
    assert strangers.enter("honest", "nat", PATIENCE_S) == (True, "nat-0")


@pytest.mark.parametrize("seed", range(5))
def test_whoever_tries_again_gets_in_and_has_time_to_say_hello(seed: int) -> None:
    """Two hundred a second from all over, and one who comes from where most of them come from."""
    draw, strangers, now_s, stayed_s = Random(seed), Strangers[str](), 0.0, 0.0
    inside_since: float | None = None
    for i in range(4000):
        now_s += 0.005
        source = draw.choice("aaaaaaaabcdefgh")
        _, gone = strangers.enter(f"evil-{i}", source, now_s)
        if gone == "honest":
            stayed_s, inside_since = max(stayed_s, now_s - (inside_since or now_s)), None
        if inside_since is None and i % 200 == 100 and strangers.enter("honest", "a", now_s)[0]:
            inside_since = now_s
        assert len(strangers) <= MAX_STRANGERS
    if inside_since is not None:
        stayed_s = max(stayed_s, now_s - inside_since)
    assert stayed_s >= 0.3


def test_whoever_has_joined_takes_no_place() -> None:
    strangers = crowd("home", each=MAX_FROM_ONE_SOURCE)
    strangers.leave("home-3")
    strangers.leave("home-3")
    assert strangers.enter("honest", "home", 0.0) == (True, None)
