"""Who may come in, and which claims are believable. Pure checks that raise with the sentence the node is told."""

from collections.abc import Iterable
from dataclasses import asdict, astuple
from itertools import chain
from math import isfinite

from muster.errors import Banned, MalformedFrame, ProtocolViolation, TicketInvalid, VersionMismatch
from muster.spec.pool import Device, NodeId
from muster.spec.tiers import TierRates
from muster.wire.messages.base import PROTOCOL, Address
from muster.wire.messages.membership import Heartbeat, Hello, Measured, PeerMeasured
from muster.wire.messages.placement import LoadProgress
from muster.wire.ticket import proof_holds

MAX_MEMORY_BYTES = 64 * 2**40
MAX_FLOPS_PER_S = 1e18
MAX_BYTES_PER_S = 1e14
MAX_ROUND_TRIP_S = 60.0
MAX_COUNTED = 2**53
MAX_NAME = 64
MAX_ADDRESS = 256
MAX_ADDRESSES = 32
MAX_DTYPES = 32
MAX_MEASURED_ROWS = 32
KINDS = ("cpu", "cuda", "mps")
_HEX = frozenset("0123456789abcdef")


def check_hello(
    node: NodeId, hello: Hello, head: NodeId, secrets: Iterable[tuple[bytes, float]], known: bool, wall_s: float
) -> None:
    """Raise unless `node` may come in. `secrets` are (join secret, expiry); a `known` node may come back after it."""
    _check_protocol(hello.protocol)
    _check_names(node, hello)
    check_proof(node, hello.proof, hello.protocol, head, secrets, known, wall_s)


def check_proof(
    node: NodeId,
    proof: bytes,
    protocol: int,
    head: NodeId,
    secrets: Iterable[tuple[bytes, float]],
    known: bool,
    wall_s: float,
) -> None:
    """Raise unless `node` has a ticket of this pool."""
    _check_protocol(protocol)
    expiry = next((until for secret, until in secrets if proof_holds(proof, secret, node, head)), None)
    if expiry is None:
        raise TicketInvalid(
            "This ticket is not of this pool; ask whoever runs the pool for one (`muster serve` prints it)."
        )
    if wall_s >= expiry and not known:
        raise TicketInvalid("This ticket has expired; ask whoever runs the pool for a new one.")


def _check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL:
        older = "node" if protocol < PROTOCOL else "head"
        raise VersionMismatch(
            f"This node speaks protocol {protocol}, the head {PROTOCOL}; update Muster on the {older}."
        )


def check_not_banned(node: NodeId, banned: Iterable[NodeId]) -> None:
    if node in banned:
        raise Banned(f"Node {node[:10]} is banned from this pool; ask whoever runs the pool to lift the ban.")


def _check_names(node: NodeId, hello: Hello) -> None:
    if hello.address.node != node:
        raise ProtocolViolation("This node gave the address of another node; give its own.")
    if len(hello.name) > MAX_NAME or not _readable(hello.name):
        raise MalformedFrame(f"A node's name has 1 to {MAX_NAME} printable characters; choose another with --name.")
    if len(hello.region) > MAX_NAME or not (hello.region == "" or _readable(hello.region)):
        raise MalformedFrame(f"A region has at most {MAX_NAME} printable characters; choose another with --region.")
    if len(hello.island) > MAX_NAME or not (hello.island == "" or _readable(hello.island)):
        raise MalformedFrame(f"An island has at most {MAX_NAME} printable characters; choose another with --island.")
    if len(hello.owner) > MAX_NAME or not (hello.owner == "" or _readable(hello.owner)):
        raise MalformedFrame(f"An owner has at most {MAX_NAME} printable characters; choose another with --owner.")
    _check_address(hello.address)


def _readable(name: str) -> bool:
    return bool(name.strip()) and name.isprintable()


def _check_address(address: Address) -> None:
    parts = [*address.direct, address.relay or ""]
    if len(parts) > MAX_ADDRESSES or any(len(part) > MAX_ADDRESS for part in parts):
        raise MalformedFrame("This node gave too many or too long addresses; bind it to fewer with --listen.")


def check_measured(measured: Measured) -> None:
    """Raise `ProtocolViolation` on a claim that no machine can make."""
    device = measured.device
    sizes = (device.memory_bytes, device.host_memory_bytes, device.disk_bytes, measured.free_memory_bytes)
    for what, value in zip(("memory", "host memory", "disk", "free memory"), sizes, strict=True):
        if not 0 <= value <= MAX_MEMORY_BYTES:
            raise _absurd(what, value, "between 0 and 64 TiB")
    if device.memory_bytes == 0:
        raise _absurd("memory", 0, "more than nothing")
    if device.kind not in KINDS:
        raise _absurd("kind of device", device.kind[:MAX_NAME], " or ".join(KINDS))
    _check_speeds(device)


def _check_speeds(device: Device) -> None:
    names = [device.name, *device.flops_per_s]
    readable = all(len(name) <= 2 * MAX_NAME and name.isprintable() for name in names)
    if len(device.flops_per_s) > MAX_DTYPES or not readable:
        raise _absurd("device", repr(device.name[:MAX_NAME]), "short and printable")
    for dtype, speed in device.flops_per_s.items():
        _check_speed(f"speed in {dtype[:16]}", speed, MAX_FLOPS_PER_S)
    _check_speed("memory bandwidth", device.memory_bandwidth_bytes_per_s, MAX_BYTES_PER_S)
    _check_speed("host bandwidth", device.host_bandwidth_bytes_per_s, MAX_BYTES_PER_S)
    _check_speed("disk bandwidth", device.disk_bandwidth_bytes_per_s, MAX_BYTES_PER_S)
    if device.tiers is not None:
        _check_tiers(device.tiers)


def _check_tiers(tiers: TierRates) -> None:
    for what, value in asdict(tiers).items():
        if what.endswith("bytes_per_s"):
            _check_speed(what, value, MAX_BYTES_PER_S)
        elif what.endswith("attention_flops_per_s"):
            _check_speed(what, value, MAX_FLOPS_PER_S)
        elif isinstance(value, float) and not 0 <= value <= 1:
            raise _absurd(what, value, "between 0 and 1")
    rows = [count for count, _ in tiers.matmul_flops_per_s]
    if (
        len(rows) > MAX_MEASURED_ROWS
        or rows != sorted(set(rows))
        or not all(0 < count <= MAX_COUNTED for count in rows)
    ):
        raise _absurd("number of rows", rows[:4], f"at most {MAX_MEASURED_ROWS} numbers that ascend from 1")
    for count, speed in tiers.matmul_flops_per_s:
        _check_speed(f"speed with {count} rows", speed, MAX_FLOPS_PER_S)
    if max(len(tiers.dtype), len(tiers.measured_on)) > 2 * MAX_NAME:
        raise _absurd("dtype", tiers.dtype[:MAX_NAME], "short")


def check_progress(progress: LoadProgress) -> None:
    if not 0 <= progress.done_bytes <= progress.total_bytes <= MAX_MEMORY_BYTES:
        raise _absurd("load progress", f"{progress.done_bytes} of {progress.total_bytes}", "a part of something")


def check_peer_measured(measured: PeerMeasured) -> None:
    if len(measured.peer) != 64 or not _HEX.issuperset(measured.peer):
        raise MalformedFrame("This node measured a link to something that is no node; update Muster on it.")
    if not 0 <= measured.round_trip_s <= MAX_ROUND_TRIP_S:
        raise _absurd("round trip", measured.round_trip_s, f"between 0 and {MAX_ROUND_TRIP_S:.0f} s")
    _check_speed("link bandwidth", measured.bandwidth_bytes_per_s, MAX_BYTES_PER_S)


def check_heartbeat(beat: Heartbeat) -> None:
    stages = [(stage.active_requests, stage.received, stage.sent, stage.in_flight) for stage in beat.stages]
    guesses = [count for stage in beat.stages for count in astuple(stage.guesses)]
    counts = (*chain.from_iterable(stages), *guesses, beat.steps, beat.busy_s)
    if not all(0 <= count <= MAX_COUNTED for count in counts) or not isfinite(beat.computing_s):
        raise _absurd("workload", (*counts, beat.computing_s), "a few numbers")


def _check_speed(what: str, value: float, most: float) -> None:
    # Not measured is 0; less than one a second would only make the planner's numbers overflow.
    if value != 0 and not 1 <= value <= most:
        raise _absurd(what, value, f"0, or between 1 and {most:.0e}")


def _absurd(what: str, value: object, bounds: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"This node claims a {what} of {value}, which must be {bounds}; measure it again or update it."
    )
