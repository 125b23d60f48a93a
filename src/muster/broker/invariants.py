"""What must hold after every event, whatever the nodes did. Raises `AssertionError` that names what is wrong."""

from collections.abc import Set
from math import inf

from muster.broker.members.membership import Membership
from muster.broker.pipelines.placement import Placement
from muster.broker.pipelines.placing import Placing
from muster.spec.pool import NodeId


def check_books(
    members: Membership, placing: Placing, banned: Set[NodeId], ticked_s: float | None, now_s: float
) -> None:
    """All of the below. `ticked_s` is when leases were last looked at."""
    check_members(members, banned, ticked_s)
    check_epochs(placing)
    for placement in placing.live():
        check_layers(placement, placing.served.shape.num_layers)
        check_presence(placement, members)
    check_memory(members, placing, now_s)
    check_progress(placing, members)


def check_members(members: Membership, banned: Set[NodeId], ticked_s: float | None) -> None:
    connections = {member.connection for member in members}
    assert len(connections) == len(members.members), "two members share a connection"
    here_banned = members.members.keys() & banned
    assert not here_banned, f"{here_banned} are banned and here"
    oldest_s = -inf if ticked_s is None else ticked_s - members.options.lease_s
    for node, member in members.members.items():
        assert member.id == node, f"{member.id} is filed under {node}"
        assert members.at(member.connection) is member, f"{node} is not found by its connection"
        assert member.heard_s >= oldest_s, f"{node} was silent since {member.heard_s} and is still here"


def check_epochs(placing: Placing) -> None:
    epochs = [placement.epoch for placement in placing.live()]
    assert epochs == sorted(set(epochs)), f"epochs {epochs} are not increasing"
    assert all(0 < epoch <= placing.epoch for epoch in epochs), f"epochs {epochs} beyond {placing.epoch}"


def check_layers(placement: Placement, num_layers: int) -> None:
    stages = placement.pipeline.stages
    assert stages, "a pipeline without stages"
    starts, ends = [stage.first for stage in stages], [stage.last for stage in stages]
    assert starts == [0, *ends[:-1]], f"layers {list(zip(starts, ends, strict=True))} have gaps or overlaps"
    assert ends[-1] == num_layers, f"layers end at {ends[-1]} of {num_layers}"
    assert all(stage.first < stage.last for stage in stages), "an empty stage"
    assert len(set(placement.nodes)) == len(stages), "a node holds two stages of one pipeline"
    pipeline = placement.pipeline
    assert pipeline.serve.num_pages > 0, "no cache"
    assert pipeline.serve.num_microbatches >= len(stages), "fewer steps in flight than stages"


def check_presence(placement: Placement, members: Membership) -> None:
    for node in placement.nodes:
        assert node in members.members, f"{node} holds a stage of epoch {placement.epoch} and is not here"
        assert members.members[node].device is not None, f"{node} holds a stage and was never measured"
    assert set(placement.loads) | placement.deferred == set(placement.nodes), "somebody was forgotten"
    assert not set(placement.loads) & placement.deferred, "somebody is both assigned and deferred"


def check_memory(members: Membership, placing: Placing, now_s: float) -> None:
    """No node is asked to hold more than it lends and is believed to have, over all live placements."""
    for node in {node for placement in placing.live() for node in placement.nodes}:
        member, held = members.members[node], placing.held_bytes(node)
        cap = members.cap(member, now_s)
        assert held <= cap, f"{node} is to hold {held} bytes and is believed to have {cap}"
        assert held <= member.claim_bytes, f"{node} is to hold {held} bytes and lends {member.claim_bytes}"


def check_progress(placing: Placing, members: Membership) -> None:
    serving, pending = placing.serving, placing.pending
    if serving is not None:
        assert serving.is_ready, f"epoch {serving.epoch} serves and is not loaded everywhere"
        assert not serving.deferred, f"epoch {serving.epoch} serves and waits for {serving.deferred}"
    if pending is not None:
        assert not pending.is_ready, f"epoch {pending.epoch} is loaded everywhere and does not serve"
        assert serving is not None or not pending.deferred, "a node is deferred and nothing is in its way"
        draining = [node for node in pending.nodes if members.members[node].draining]
        assert not draining, f"{draining} want to leave and get new work"
