"""Clients that ask this pool for private sessions: who may, what they get, what they are told. Pure.

A guest is no member: it lends nothing, and nothing is planned on it. It stays as long as its connection, and so does
its session, which is a job like any other. What it says of machines counts for its own session alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from muster.broker.events import Command, ConnectionId, PipelineId, PrivateAsked, Refuse, RouteChanged, Send
from muster.broker.members.admission import Admission
from muster.broker.members.membership import Membership
from muster.broker.pipelines.every import Pipelines
from muster.broker.pipelines.job import Job, JobModel
from muster.broker.pipelines.placement import Placement
from muster.broker.pipelines.private import PrivatePlanning, private_job
from muster.errors import DoesNotFit, InvalidRequest, LimitReached, MusterError, ProtocolViolation
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.private import AskPrivate, PrivateMachine, PrivateSeats, PrivateWaits, SeatLost

MAX_GUESTS = 32
MAX_TOKENS = 2**20
MAX_GAP, MAX_COLLUDERS, MAX_SPARES = 4096, 16, 64
MAX_LOST = 256
"""Machines that one guest may call failed."""


@dataclass(slots=True)
class _Guest:
    connection: ConnectionId
    job: str
    told: str = ""
    """Why it waits, as it was last told."""
    lost: int = 0

    @property
    def pipeline(self) -> PipelineId:
        return PipelineId(self.job)


class Guests:
    def __init__(self, members: Membership, admission: Admission, pipelines: Pipelines, jobs: Iterable[Job]) -> None:
        """`jobs` are those whose models private sessions may use."""
        self._members, self._admission, self._pipelines = members, admission, pipelines
        self._models = {job.model.shape.name: job.name for job in jobs}
        self._guests: dict[ConnectionId, _Guest] = {}

    def __contains__(self, connection: object) -> bool:
        return connection in self._guests

    @property
    def jobs(self) -> frozenset[str]:
        """Of private sessions."""
        return frozenset(guest.job for guest in self._guests.values())

    def asked(self, event: PrivateAsked, now_s: float) -> list[Command]:
        try:
            self._admission.check_proof(event.client, event.asked.proof, event.asked.protocol, event.wall_s)
            model = self._check(event.asked)
        except MusterError as error:
            return [Refuse(event.connection, error.code, str(error))]
        guest = _Guest(event.connection, f"private session {event.connection}")
        self._guests[event.connection] = guest
        self._pipelines.add(private_job(guest.job, model, event.asked, event.client), now_s)
        return []

    def heard(self, connection: ConnectionId, message: AnyMessage, now_s: float) -> list[Command]:
        """From one that is in `self`."""
        guest = self._guests[connection]
        if not isinstance(message, SeatLost):
            reason = f"A client of a private session does not send {type(message).__name__}; update Muster on it."
            return [Refuse(connection, ProtocolViolation.code, reason), *self.gone(connection, now_s)]
        lifecycle = self._pipelines[guest.pipeline]
        for placement in [one for one in lifecycle.live() if one.epoch == message.epoch]:
            planning = lifecycle.job.planning
            guest.lost += message.node in placement.nodes
            if message.node in placement.nodes and guest.lost <= MAX_LOST and isinstance(planning, PrivatePlanning):
                lifecycle.job = replace(lifecycle.job, planning=planning.without(message.node))
            return lifecycle.end(placement, now_s)
        return []

    def gone(self, connection: ConnectionId, now_s: float) -> list[Command]:
        guest = self._guests.pop(connection, None)
        return [] if guest is None else self._pipelines.drop(guest.job, now_s)

    def told(self, commands: Sequence[Command], now_s: float) -> list[Command]:
        """The same, with what guests have to hear of it; routes of private sessions are for nobody else."""
        by_pipeline = {guest.pipeline: guest for guest in self._guests.values()}
        found: list[Command] = []
        for command in commands:
            if isinstance(command, RouteChanged) and command.pipeline in by_pipeline:
                placement = self._pipelines[command.pipeline].serving
                if command.route is not None and placement is not None:
                    found.append(self._seats(by_pipeline[command.pipeline], placement, now_s))
            else:
                found.append(command)
        return found + [wait for guest in by_pipeline.values() for wait in self._waits(guest)]

    def _seats(self, guest: _Guest, placement: Placement, now_s: float) -> Command:
        work, members = placement.pipeline.private, self._members.members
        machines = tuple(
            PrivateMachine(members[node].address, roles, owner, members[node].name)
            for node, roles, owner in zip(placement.pipeline.nodes(), work.roles, work.owners, strict=True)
        )
        seats = PrivateSeats(
            epoch=placement.epoch,
            cluster=work.cluster,
            comp_nodes=work.comp_nodes,
            shards=work.shards,
            machines=machines,
            round_trip_s=self._longest_round_trip_s(placement, now_s),
        )
        guest.told = ""
        return Send(guest.connection, seats)

    def _longest_round_trip_s(self, placement: Placement, now_s: float) -> float:
        links = self._members.links([self._members.members[node] for node in placement.nodes], now_s)
        found = [links[pair] for pair in permutations(placement.nodes, 2)]
        return max((2 * link.latency_s for link in found if link.bandwidth_bytes_per_s > 0), default=0.0)

    def _waits(self, guest: _Guest) -> list[Command]:
        """Said once for each reason."""
        lifecycle = self._pipelines[guest.pipeline]
        reason = "" if lifecycle.live() else lifecycle.trouble
        if reason in ("", guest.told):
            return []
        guest.told = reason
        return [Send(guest.connection, PrivateWaits(code=DoesNotFit.code, reason=reason))]

    def _check(self, asked: AskPrivate) -> JobModel:
        if len(self._guests) >= MAX_GUESTS:
            raise LimitReached("This pool has all the private sessions that it takes; try again later.")
        sizes = (
            (asked.min_gap, 2, MAX_GAP),
            (asked.colluders, 1, MAX_COLLUDERS),
            (asked.spares, 0, MAX_SPARES),
            (asked.max_tokens, 1, MAX_TOKENS),
            (asked.cache_tokens, asked.max_tokens, 64 * MAX_TOKENS),
        )
        if any(not least <= value <= most for value, least, most in sizes):
            raise InvalidRequest("The private session's sizes make no sense; ask for a smaller or larger gap.")
        if asked.model not in self._models:
            raise InvalidRequest(
                f"This pool has no {asked.model!r}; its model is {', '.join(self._models)}. Name that one.", "model"
            )
        model = self._pipelines.jobs[self._models[asked.model]].model
        shapes = {shape.dtype: shape for shape in model.choices or (model.shape,)}
        if asked.dtype not in shapes:
            raise InvalidRequest(f"This pool computes in {', '.join(shapes)}; choose with --dtype.", "dtype")
        return replace(model, shape=shapes[asked.dtype], choices=(), draft=None)
