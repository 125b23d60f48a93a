"""Messages of private sessions, in which no machine gets all tokens. See `spec/token_shards` for who is who.

    client ── AskPrivate ──▶ head ── PrivateSeats ──▶ client                in a pool, on the control channel
    client ── OpenPrivate ──▶ machine ── PrivateOpened ──▶ client          once, before all steps
    client ── HiddenRows ──▶ CompNode      rows of the embedding, each with its position
    client ── AttentionOrder ──▶ AttnNode  how many rows come from whom, and which keys each query sees
    CompNode ── ProjectedRows ──▶ AttnNode ── PartialRows ──▶ CompNode      one round trip for each layer
    CompNode ── HiddenRows ──▶ client      rows after the last layer
    client ── ForgetSequence ──▶ AttnNode  its keys and values are not needed any more
    client ── ClosePrivate ──▶ machine ── PrivateClosed ──▶ client

`sender` and `receiver` are numbers of roles, as one machine may have several. Rows of an AttnNode are counted within
their shard: where they stand in the prompt is not said.
"""

import msgspec

from muster.wire.messages.base import Address, EpochMessage, Message, TensorHeader


class PrivateMachine(msgspec.Struct, frozen=True, array_like=True):
    address: Address
    roles: tuple[int, ...]
    owner: str = ""
    """Told to the client by the head of a pool, and to nobody else."""
    name: str = ""
    """Likewise."""


class AskPrivate(Message, frozen=True, tag="ask_private"):
    """Client to the head of a pool, its first message on a control channel: machines for a private session.

    `proof` is that of the pool's ticket. The head answers with `PrivateSeats`, again after every change, or with
    `PrivateWaits`, or refuses. What is asked for ends with the connection.
    """

    protocol: int
    proof: bytes
    model: str
    dtype: str
    min_gap: int
    colluders: int
    spares: int
    """So many owners are kept back, if the others suffice, for machines that are lost."""
    max_tokens: int
    cache_tokens: int


class PrivateSeats(EpochMessage, frozen=True, tag="private_seats"):
    """Head to client: these machines have loaded the model, and have these roles under `epoch`."""

    cluster: int
    comp_nodes: int
    shards: int
    machines: tuple[PrivateMachine, ...]
    round_trip_s: float = 0.0
    """Between the two of them that are farthest apart, as far as links were measured."""


class PrivateWaits(Message, frozen=True, tag="private_waits"):
    """Head to client: there are no such machines now; `reason` says what is missing."""

    code: str
    reason: str


class SeatLost(EpochMessage, frozen=True, tag="seat_lost"):
    """Client to head: place the roles anew, without `node` if that is not empty."""

    node: str
    reason: str


class OpenPrivate(EpochMessage, frozen=True, tag="open_private"):
    """Client to machine: take these roles of a session. `proof` is that of a ticket of this machine.

    `config` is the BLAKE3 of the model's config.json: both must have the same model. `machines` are all of the session,
    the receiver among them; they may dial each other, and speak for their own roles.
    """

    proof: bytes
    config: bytes
    dtype: str
    cluster: int
    comp_nodes: int
    shards: int
    machines: tuple[PrivateMachine, ...]
    max_tokens: int


class PrivateOpened(EpochMessage, frozen=True, tag="private_opened"):
    """Machine to client: the roles are ready."""


class ClosePrivate(EpochMessage, frozen=True, tag="close_private"):
    """Client to machine: the session is over. A lost connection says the same."""


class PrivateClosed(EpochMessage, frozen=True, tag="private_closed"):
    """Machine to client: what it has sent in this session, payloads alone and whole frames."""

    frames: int
    payload_bytes: int
    frame_bytes: int


class RoleMessage(EpochMessage, frozen=True):
    """From one role of a private session to another."""

    sender: int
    receiver: int


class HiddenRows(RoleMessage, frozen=True, tag="hidden_rows"):
    """Hidden states [T, H] of one CompNode. From the client, `positions`, `shards` and `ranks` say what they are.

    `ranks` count the rows of this step within each shard. From a CompNode, all three are empty.
    """

    step: int
    tensor: TensorHeader
    positions: tuple[int, ...] = ()
    shards: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()


class SequenceRows(msgspec.Struct, frozen=True, array_like=True):
    """The rows of one sequence in a step of an AttnNode, which follow those of the sequence before.

    `starts` and `stops`, for each different window of the model's layers: which of the sequence's keys in this shard,
    counted from its first, each query sees.
    """

    sequence: int
    queries: int
    keys: int
    starts: tuple[tuple[int, ...], ...]
    stops: tuple[tuple[int, ...], ...]


class AttentionOrder(RoleMessage, frozen=True, tag="attention_order"):
    """Client to AttnNode: what a step brings. `query_from` and `key_from` name the CompNode of each row."""

    step: int
    sequences: tuple[SequenceRows, ...]
    query_from: tuple[int, ...] = ()
    key_from: tuple[int, ...] = ()


class ProjectedRows(RoleMessage, frozen=True, tag="projected_rows"):
    """CompNode to AttnNode: rows of one layer, queries, then keys, then values, each row after row."""

    step: int
    layer: int
    tensor: TensorHeader
    queries: tuple[int, ...] = ()
    """Which rows of the step's queries these are."""
    keys: tuple[int, ...] = ()


class PartialRows(RoleMessage, frozen=True, tag="partial_rows"):
    """AttnNode to CompNode: for each row and head the weighed values of this shard, the largest score and the sum.

    float32 [rows, N, size of a value + 2].
    """

    step: int
    layer: int
    tensor: TensorHeader
    queries: tuple[int, ...]


class ForgetSequence(RoleMessage, frozen=True, tag="forget_sequence"):
    sequence: int


class RoleFailed(RoleMessage, frozen=True, tag="role_failed"):
    """To the client: a step cannot be done, or what came was refused. `reason` is one sentence."""

    code: str
    reason: str
    node: str = ""
    """The machine that is lost to the sender, or sent what it may not."""


PrivateMessage = HiddenRows | AttentionOrder | ProjectedRows | PartialRows | ForgetSequence | RoleFailed
