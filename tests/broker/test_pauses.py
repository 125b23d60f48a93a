"""However the world oscillates, the changes of a day are bounded."""

from itertools import pairwise
from random import Random

import pytest

from muster.broker.pipelines.pauses import CALM, PATIENCE_S, Pauses

SHORTEST_S, MAX_S, DAY_S = 30.0, 3600.0, 86400.0


def changes(wanted):
    """When pauses let it change that wants to at `wanted` (ascending)."""
    pauses, made = Pauses(SHORTEST_S, MAX_S), []
    for now_s in wanted:
        if pauses.is_over(now_s):
            pauses.changed(now_s)
            made.append(now_s)
    return made


def test_who_always_wants_to_change_does_so_ever_more_rarely():
    made = changes(float(second) for second in range(int(DAY_S)))
    gaps = [later - earlier for earlier, later in pairwise(made)]
    assert gaps[:7] == [30, 60, 120, 240, 480, 960, 1920]
    assert set(gaps[7:]) == {3600.0}


@pytest.mark.parametrize("seed", range(10))
def test_nobody_can_make_it_change_often_over_a_day(seed):
    random, now_s, wanted = Random(seed), 0.0, []
    while now_s < DAY_S:
        now_s += random.choice([1, 31, 61, 121, 601, 1201, random.uniform(1, 3000)])
        wanted.append(now_s)
    assert len(changes(wanted)) <= 8 + DAY_S / (CALM * SHORTEST_S)


def test_after_a_long_calm_it_is_as_quick_as_at_first():
    busy = [float(second) for second in range(4000)]
    week_s = 7 * DAY_S
    made = changes([*busy, week_s, week_s + SHORTEST_S + 1])
    assert made[-2:] == [week_s, week_s + SHORTEST_S + 1]


def test_a_look_that_changed_nothing_is_not_repeated_at_once():
    pauses = Pauses(SHORTEST_S, MAX_S)
    pauses.looked(5.0)
    assert not pauses.is_over(34.0)
    assert pauses.is_over(35.0)


def test_a_look_that_is_due_waits_for_running_streams_but_not_for_ever():
    pauses = Pauses(SHORTEST_S, MAX_S)
    pauses.looked(5.0)
    assert not pauses.is_over(36.0, streams=3)
    assert pauses.is_over(36.0)
    assert pauses.is_over(35.0 + PATIENCE_S, streams=3)
