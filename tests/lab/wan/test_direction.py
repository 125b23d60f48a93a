"""What a direction does to packets: order, delay, bandwidth, loss and a queue that ends."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.lab.wan.direction import LOST, MAX_QUEUE_S, Direction
from muster.spec.scenario import Link


def direction(
    latency_s: float = 0.1, bandwidth: float = 12.5e6, jitter_s: float = 0.0, loss: float = 0.0, seed: int = 1
) -> Direction:
    link = Link(latency_s=latency_s, bandwidth_bytes_per_s=bandwidth, jitter_s=jitter_s, loss=loss)
    return Direction(link, Random(seed))


def test_a_packet_alone_takes_its_time_on_the_wire_and_the_latency() -> None:
    assert direction().due_s(1250, 7.0) == pytest.approx(7.0 + 1250 / 12.5e6 + 0.1)


def test_packets_that_come_at_once_leave_one_after_another() -> None:
    wire = direction()
    dues = [wire.due_s(1250, 3.0) for _ in range(3)]
    assert dues == pytest.approx([3.1001, 3.1002, 3.1003])


def test_no_more_passes_than_the_bandwidth_and_what_would_wait_too_long_is_dropped() -> None:
    wire = direction(bandwidth=1e6)
    dues = [wire.due_s(1000, at_ms / 4000) for at_ms in range(4000)]  # four times the bandwidth for a second
    arrived = [due for due in dues if due != LOST]
    assert len(arrived) == pytest.approx(1000 * (1 + MAX_QUEUE_S), abs=3)
    assert wire.dropped == 4000 - len(arrived) == 4000 - wire.passed
    assert max(due - at_ms / 4000 for at_ms, due in enumerate(dues)) <= 0.1 + MAX_QUEUE_S + 0.002


@given(st.integers(), st.floats(0, 0.2), st.lists(st.floats(0, 0.3), min_size=2, max_size=200))
def test_jitter_keeps_the_order_and_stays_within_its_bounds(seed: int, jitter_s: float, pauses: list[float]) -> None:
    wire, now_s, last_s = direction(jitter_s=jitter_s, bandwidth=1e12, seed=seed), 5.0, 0.0
    for pause_s in pauses:
        now_s += pause_s
        due_s = wire.due_s(100, now_s)
        assert due_s >= last_s
        assert now_s + 0.1 - 1e-9 <= due_s <= now_s + 0.1 + jitter_s + 1e-6
        last_s = due_s


def test_jitter_is_half_of_its_bound_on_average() -> None:
    wire = direction(jitter_s=0.01, bandwidth=1e12)
    delays = [wire.due_s(100, at_s) - at_s - 0.1 for at_s in (number * 0.01 for number in range(20_000))]
    assert sum(delays) / len(delays) == pytest.approx(0.005, rel=0.05)


@pytest.mark.parametrize("loss", [0.001, 0.02, 0.5])
def test_so_many_packets_are_lost_as_the_link_says(loss: float) -> None:
    wire, count = direction(loss=loss, bandwidth=1e12), 100_000
    lost = sum(wire.due_s(100, number * 1e-3) == LOST for number in range(count))
    assert lost == wire.lost
    # Five standard deviations of a count of independent losses; the seed is fixed.
    assert lost == pytest.approx(count * loss, abs=5 * (count * loss) ** 0.5)


def test_nothing_passes_a_cut_link_and_all_of_it_counts_as_dropped() -> None:
    wire = direction()
    wire.is_cut = True
    assert [wire.due_s(100, 1.0), wire.dropped] == [LOST, 1]
    wire.is_cut = False
    assert wire.due_s(100, 1.0) > 1.1


def test_a_slowed_link_takes_longer_until_it_is_slowed_no_more() -> None:
    wire = direction(latency_s=0.0, bandwidth=1e6)
    wire.slow(0.1)
    assert wire.due_s(1000, 1.0) == pytest.approx(1.010)
    wire.slow(1.0)
    assert wire.due_s(1000, 2.0) == pytest.approx(2.001)


def test_the_same_seed_loses_the_same_packets() -> None:
    def lost(seed: int) -> list[int]:
        wire = direction(loss=0.1, seed=seed)
        return [number for number in range(500) if wire.due_s(100, number * 0.1) == LOST]

    assert lost(3) == lost(3) != lost(4)
