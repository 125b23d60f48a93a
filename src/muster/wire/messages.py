"""Everything one machine may say to another. Knows nothing of how the bytes travel.

Three channels run between two machines, so that a heartbeat never waits behind weights:

    control   node <-> broker: join, lease, placement
    data      session <-> first stage, stage <-> stage: requests, steps, tokens
    bulk      weights and probes

A message is a tagged msgpack map (`type` names it). A message that carries a tensor or a blob has it as the frame's
payload, described by a `TensorHeader` or by a length inside the message. Every receiver checks sizes, ids and
shapes before it acts; nothing here is trusted.
"""

import msgspec

from muster.spec.plan import Stage
from muster.spec.pool import Device
from muster.spec.request import Progress, Request, Sampled
from muster.spec.sampling import Sampling

PROTOCOL = 1
"""Raised when an older peer could misread a message; peers of another protocol are refused by name."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all messages."""


class TensorHeader(Message, frozen=True):
    """Describes the payload: `dtype` is a torch name (`float32`), row-major, little endian."""

    dtype: str
    shape: tuple[int, ...]
    codec: str = "raw"


class Address(Message, frozen=True):
    """Where a node can be dialled. `direct` are `ip:port`; `relay` is an optional relay URL."""

    node: str
    direct: tuple[str, ...] = ()
    relay: str | None = None
    region: str = ""
    """Where the node stands, in its owner's words; rehearsals shape links by it."""


# --- control: joining and the lease ---------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """The first message on a control channel. `proof` is the join secret's keyed BLAKE3 of (node id, head id)."""

    protocol: int
    version: str
    name: str
    region: str
    proof: bytes
    address: Address


class Welcome(Message, frozen=True, tag="welcome"):
    """You are in. Heartbeat every `heartbeat_s`; you count as lost after `lease_s` of silence."""

    heartbeat_s: float
    lease_s: float
    model: str
    region: str = ""
    """The head's own."""


class Refused(Message, frozen=True, tag="refused"):
    """The door stays shut; `reason` is one sentence with the remedy, `code` an error code of `muster.errors`."""

    code: str
    reason: str


class Measured(Message, frozen=True, tag="measured"):
    """What the node found when it measured itself. The broker treats it as a claim, not as truth."""

    device: Device
    free_memory_bytes: int


class PeerMeasured(Message, frozen=True, tag="peer_measured"):
    """Round trip and bandwidth from the sender to `peer`."""

    peer: str
    round_trip_s: float
    bandwidth_bytes_per_s: float


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Node to broker. `epoch` is the placement it is serving (0: none)."""

    epoch: int
    free_memory_bytes: int
    active_requests: int = 0
    steps: int = 0
    """Computed since the node started. A heartbeat says that the node lives; this, that it works."""
    computing_s: float = 0.0
    """How long the step at hand has been computing; 0 between steps."""
    busy_s: float = 0.0
    """Spent computing since the node started, the step at hand included."""


class HeartbeatSeen(Message, frozen=True, tag="heartbeat_seen"):
    """Broker to node, so that a node notices a head that is gone."""


class Goodbye(Message, frozen=True, tag="goodbye"):
    """The node wants to leave: `drain` first (finish what runs), or at once."""

    drain: bool = False


# --- control: placement ---------------------------------------------------------------------------------------------


class Assign(Message, frozen=True, tag="assign"):
    """Hold stage `index` of the pipeline `stages` under `epoch`: load the weights, reserve the pages, answer `Loaded`.

    `peers` says how to dial each node of the pipeline. Steps of another epoch are dropped.
    """

    epoch: int
    model: str
    manifest: str
    """BLAKE3 of the model's manifest; the manifest and its blobs can be fetched from the head on the bulk channel."""
    dtype: str
    index: int
    stages: tuple[Stage, ...]
    peers: tuple[Address, ...]
    num_pages: int
    page_size: int
    num_microbatches: int
    prefill_tokens: int = 512
    """Most prompt tokens in one step."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a sequence unless a request ignores them."""


class LoadProgress(Message, frozen=True, tag="load_progress"):
    epoch: int
    done_bytes: int
    total_bytes: int


class Loaded(Message, frozen=True, tag="loaded"):
    epoch: int


class LoadFailed(Message, frozen=True, tag="load_failed"):
    epoch: int
    code: str
    reason: str


class Release(Message, frozen=True, tag="release"):
    """Drop the stage of `epoch` and its pages; go back to the standby pool."""

    epoch: int


class StageLost(Message, frozen=True, tag="stage_lost"):
    """Node to broker: the link to `peer`, a neighbour in the pipeline, is down."""

    epoch: int
    peer: str
    reason: str


# --- data: requests and their tokens --------------------------------------------------------------------------------


class Submit(Message, frozen=True, tag="submit"):
    """Session to first stage."""

    epoch: int
    request: Request


class Cancel(Message, frozen=True, tag="cancel"):
    request_id: str


class Tokens(Message, frozen=True, tag="tokens"):
    """First stage to session."""

    epoch: int
    progress: tuple[Progress, ...]


class Failed(Message, frozen=True, tag="failed"):
    """First stage to session: this request cannot go on here. `retry` says whether to resubmit after a repair."""

    epoch: int
    request_id: str
    code: str
    reason: str
    retry: bool


# --- data: the ring -------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One request's share of a step: tokens [start, start + length) of its sequence."""

    slot: int
    """Small number that the ring's head gave the request; valid from its `Admit` to its `release`."""
    start: int
    length: int
    pages: tuple[int, ...]
    """Page table that covers [0, start + length)."""
    samples: bool
    """Whether the last token's logits choose the next token."""


class Admit(msgspec.Struct, frozen=True, array_like=True):
    """Tells the last stage how to sample `slot`. `context` is prompt + already emitted tokens (penalties need them)."""

    slot: int
    context: tuple[int, ...]
    num_prompt: int
    sampling: Sampling


class Step(Message, frozen=True, tag="step"):
    """Run these rows through your layers. The payload is the hidden state [sum of lengths, hidden size].

    Steps of an epoch arrive in the order of `sequence`. `copies` are (from, to) pages to be copied before the rows run
    (copy-on-write); `admit` and `release` concern the last stage and are passed along by the others.
    """

    epoch: int
    sequence: int
    rows: tuple[Row, ...]
    copies: tuple[tuple[int, int], ...] = ()
    admit: tuple[Admit, ...] = ()
    release: tuple[int, ...] = ()
    hidden: TensorHeader | None = None


class StepDone(Message, frozen=True, tag="step_done"):
    """Last stage to the ring's head: one `Sampled` per row with `samples`, in the order of the rows."""

    epoch: int
    sequence: int
    sampled: tuple[Sampled, ...]


# --- bulk: weights and probes ---------------------------------------------------------------------------------------


class FetchBlob(Message, frozen=True, tag="fetch_blob"):
    """Send [offset, offset + length) of the blob with this BLAKE3 digest (hex)."""

    digest: str
    offset: int
    length: int


class Blob(Message, frozen=True, tag="blob"):
    """The payload is the range asked for; `total_bytes` is the size of the whole blob."""

    digest: str
    offset: int
    total_bytes: int


class BlobUnknown(Message, frozen=True, tag="blob_unknown"):
    digest: str


class Ping(Message, frozen=True, tag="ping"):
    """Answered at once with the same `token`; a payload measures bandwidth."""

    token: int


class Pong(Message, frozen=True, tag="pong"):
    token: int


class Relay(Message, frozen=True, tag="relay"):
    """Passed on by the head between two nodes that cannot dial each other. The payload is a whole frame."""

    source: str
    target: str
    channel: str


AnyMessage = (
    Hello | Welcome | Refused | Measured | PeerMeasured | Heartbeat | HeartbeatSeen | Goodbye
    | Assign | LoadProgress | Loaded | LoadFailed | Release | StageLost
    | Submit | Cancel | Tokens | Failed
    | Step | StepDone
    | FetchBlob | Blob | BlobUnknown | Ping | Pong | Relay
)  # fmt: skip
