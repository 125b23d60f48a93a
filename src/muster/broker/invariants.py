"""What must hold after every event, whatever the nodes did. Raises `AssertionError` that names what is wrong."""

from collections.abc import Set
from math import inf

from muster.broker.members.membership import Membership
from muster.broker.pipelines.every import Pipelines
from muster.broker.pipelines.lifecycle import Lifecycle
from muster.broker.pipelines.placement import Placement
from muster.spec.plan import Pipeline, PrivateSettings, ServeSettings, TrainSettings
from muster.spec.pool import NodeId


def check_books(members: Membership, pipelines: Pipelines, banned: Set[NodeId], now_s: float) -> None:
    """All of the below."""
    check_members(members, banned)
    check_epochs(pipelines)
    for placement in pipelines.live():
        check_layers(placement)
        check_work(placement.pipeline)
        check_presence(placement, members)
    check_memory(members, pipelines, now_s)
    check_apart(pipelines)
    for lifecycle in pipelines:
        check_progress(lifecycle, members)


def check_members(members: Membership, banned: Set[NodeId]) -> None:
    connections = {member.connection for member in members}
    assert len(connections) == len(members.members), "two members share a connection"
    here_banned = members.members.keys() & banned
    assert not here_banned, f"{here_banned} are banned and here"
    oldest_s = -inf if members.ticked_s is None else members.ticked_s - members.options.lease_s
    for node, member in members.members.items():
        assert member.id == node, f"{member.id} is filed under {node}"
        assert members.at(member.connection) is member, f"{node} is not found by its connection"
        assert member.heard_s >= oldest_s, f"{node} was silent since {member.heard_s} and is still here"


def check_epochs(pipelines: Pipelines) -> None:
    for lifecycle in pipelines:
        own = [placement.epoch for placement in lifecycle.live()]
        assert own == sorted(own), f"epochs {own} of {lifecycle.id} are not increasing"
    epochs = [placement.epoch for placement in pipelines.live()]
    assert len(set(epochs)) == len(epochs), f"an epoch is given twice in {epochs}"
    newest = pipelines.allocation.epoch
    assert all(0 < epoch <= newest for epoch in epochs), f"epochs {epochs} beyond {newest}"


def check_layers(placement: Placement) -> None:
    num_layers = placement.model.shape.num_layers
    stages = placement.pipeline.stages
    assert stages, "a pipeline without stages"
    layers = [(stage.first, stage.last) for stage in stages]
    assert placement.pipeline.covers_layers_once, f"layers {layers} have gaps or overlaps"
    assert stages[-1].last == num_layers, f"layers end at {stages[-1].last} of {num_layers}"
    assert all(stage.first < stage.last for stage in stages), "an empty stage"
    members = sum(len(stage.members) for stage in stages)
    assert len(set(placement.nodes)) == members, "a node holds two stages of one pipeline"


def check_work(pipeline: Pipeline) -> None:
    match pipeline.work:
        case ServeSettings(num_pages=pages, num_microbatches=microbatches):
            assert pages > 0, "no cache"
            assert microbatches >= len(pipeline.stages), "fewer steps in flight than stages"
        case TrainSettings(num_microbatches=microbatches):
            assert microbatches > 0, "nothing to compute"
        case PrivateSettings(roles=roles, owners=owners) as work:
            given = sorted(role for mine in roles for role in mine)
            assert given == list(work.rule.roles), "a role of a private session is nobody's, or has two machines"
            assert len(roles) == len(owners) == len(pipeline.stages), "a machine of a private session has no owner"


def check_presence(placement: Placement, members: Membership) -> None:
    for node in placement.nodes:
        assert node in members.members, f"{node} holds a stage of epoch {placement.epoch} and is not here"
        assert members.members[node].device is not None, f"{node} holds a stage and was never measured"
    assert set(placement.loads) | placement.deferred == set(placement.nodes), "somebody was forgotten"
    assert not set(placement.loads) & placement.deferred, "somebody is both assigned and deferred"


def check_memory(members: Membership, pipelines: Pipelines, now_s: float) -> None:
    """No node is to hold more than it lends and is believed to have, over all pipelines."""
    for node in {node for placement in pipelines.live() for node in placement.nodes}:
        member, booked = members.members[node], pipelines.allocation.booked_bytes(node)
        held, cap = pipelines.allocation.held_bytes(node), members.cap(member, now_s)
        assert held <= booked, f"{node} is to hold {held} bytes, of which {booked} are in the books"
        assert booked <= cap, f"{node} is to hold {booked} bytes and is believed to have {cap}"
        assert booked <= member.claim_bytes, f"{node} is to hold {booked} bytes and lends {member.claim_bytes}"


def check_apart(pipelines: Pipelines) -> None:
    """The pipelines of one job share no machine."""
    for job in pipelines.jobs:
        holders: dict[NodeId, Lifecycle] = {}
        for lifecycle in pipelines.of_job(job):
            for node in {node for placement in lifecycle.live() for node in placement.nodes}:
                assert node not in holders, f"{node} works for {lifecycle.id} and {holders[node].id}"
                holders[node] = lifecycle


def check_progress(lifecycle: Lifecycle, members: Membership) -> None:
    serving, pending = lifecycle.serving, lifecycle.pending
    if serving is not None:
        assert serving.is_ready, f"epoch {serving.epoch} serves and is not loaded everywhere"
        assert not serving.deferred, f"epoch {serving.epoch} serves and waits for {serving.deferred}"
    if pending is not None:
        waits = pending.checked_s is not None
        assert waits or not pending.is_ready, f"epoch {pending.epoch} is loaded everywhere and does not serve"
        assert serving is not None or not pending.deferred, "a node is deferred and nothing is in its way"
        draining = [node for node in pending.nodes if members.members[node].draining]
        assert not draining, f"{draining} want to leave and get new work"
