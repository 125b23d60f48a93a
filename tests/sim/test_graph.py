"""A step of pieces by hand: bubbles, wires that queue, branches that join."""

import pytest

from muster.errors import InvalidRequest
from muster.sim.graph import PieceFlow, PieceWork, simulate_graph


def flow(source, target, nbytes=0.0, latency_s=0.0):
    return PieceFlow(source, target, nbytes, nbytes, latency_s, 10.0, 10.0)


def test_one_piece_computes_all_microbatches_one_after_another():
    run = simulate_graph([PieceWork("a", 1, 2)], [], 3)
    assert run.step_s == run.busy_s[0] == 9
    # First come, first served: a backward pass is ready as soon as its forward pass is done, behind the other forwards.
    assert run.in_flight == (3,)


def test_two_pieces_overlap_and_latency_counts_once_each_way():
    pieces = [PieceWork("a", 1, 1), PieceWork("b", 1, 1)]
    assert simulate_graph(pieces, [flow(0, 1)], 1).step_s == 4
    assert simulate_graph(pieces, [flow(0, 1, latency_s=5)], 1).step_s == 14
    many = simulate_graph(pieces, [flow(0, 1)], 8)
    assert 16 < many.step_s < 24, "not one microbatch after the other"


def test_a_wire_carries_one_message_at_a_time():
    pieces = [PieceWork("a", 0, 0), PieceWork("b", 0, 0)]
    run = simulate_graph(pieces, [flow(0, 1, nbytes=10)], 4, timeline=True)
    assert run.wire_s == ((4, 4),)
    assert run.step_s == 5, "the way back overlaps with the way there, and ends a message later"
    spans = [span for span in run.spans if span.lane == "a -> b"]
    assert [(span.start_s, span.end_s) for span in spans] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_join_waits_for_both_branches_and_a_skip_jumps_over():
    pieces = [PieceWork(name, 1, 1) for name in "abc"]
    flows = [flow(0, 1), flow(1, 2), flow(0, 2, nbytes=100)]
    assert simulate_graph(pieces, flows, 1).step_s == 1 + 10 + 2 + 10 + 1


def test_pieces_that_wait_for_each_other_are_refused():
    with pytest.raises(InvalidRequest, match="cut it so that data flow one way"):
        simulate_graph([PieceWork("a", 1, 1), PieceWork("b", 1, 1)], [flow(0, 1), flow(1, 0)], 2)
