"""How fast is a link on loopback, beside plain TCP by asyncio in the same process and the same minute?

    python benchmarks/link.py [--json benchmarks/results/link.json]

Method: both ends live in one process and one event loop, so the figures are for one core doing both sides' Python.
Throughput: the median of `--rounds` rounds in which 64 MiB go one way in frames of 4 MiB payload, checked for length.
Round trip: the median and 95th percentile of 500 echoes of a 4 KiB payload (a hidden state of one token). The kinds
take turns round by round, so that a noisy minute hits all alike. TCP is the yardstick: unencrypted, no frames but a
length, `asyncio` streams with a buffer as large as a frame.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from iroh import iroh_ffi

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine
from benchmarks.register import claims
from muster.link import iroh_fast_write
from muster.link.base import Channel, Endpoint
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.memory import MemoryNetwork
from muster.wire.messages.transfer import Ping

FRAME_BYTES = 4 * 1024 * 1024
FRAMES = 16
SLOW_FRAMES = 1
ECHOES = 500
ECHO_BYTES = 4096

Send = Callable[[bytes], Awaitable[None]]
Receive = Callable[[], Awaitable[int]]
Ends = tuple[Send, Receive, Send, Receive]
"""Send and receive of the near end, then of the far end."""


@dataclass
class Measured:
    throughput_bytes_per_s: list[float] = field(default_factory=list)
    round_trip_s: list[float] = field(default_factory=list)


async def throughput(ends: Ends, frames: int) -> float:
    send, _, _, receive = ends
    payload = bytes(FRAME_BYTES)

    async def push() -> None:
        for _ in range(frames):
            await send(payload)

    start = time.perf_counter()
    pushing = asyncio.create_task(push())
    for _ in range(frames):
        assert await receive() == FRAME_BYTES
    await pushing
    return frames * FRAME_BYTES / (time.perf_counter() - start)


async def round_trips(ends: Ends) -> list[float]:
    send, receive, send_back, receive_there = ends
    payload, times = bytes(ECHO_BYTES), []

    async def echo() -> None:
        for _ in range(ECHOES):
            await receive_there()
            await send_back(payload)

    echoing = asyncio.create_task(echo())
    for _ in range(ECHOES):
        start = time.perf_counter()
        await send(payload)
        await receive()
        times.append(time.perf_counter() - start)
    await echoing
    return times


def channel_ends(near: Channel, far: Channel) -> Ends:
    def sender(channel: Channel) -> Send:
        return lambda payload: channel.send(Ping(token=1), payload)

    def receiver(channel: Channel) -> Receive:
        async def receive() -> int:
            return (await channel.receive())[1].nbytes

        return receive

    return sender(near), receiver(near), sender(far), receiver(far)


async def link_ends(near: Endpoint, far: Endpoint) -> Ends:
    connection = await near.dial(far.address)
    accepted = await far.accept()
    channel = await connection.open("bulk")
    return channel_ends(channel, (await accepted.accept())[1])


async def tcp_ends() -> Ends:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=FRAME_BYTES)
    near = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=FRAME_BYTES)
    far = await accepted.get()

    def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Send, Receive]:
        async def send(payload: bytes) -> None:
            writer.write(len(payload).to_bytes(8, "big"))
            writer.write(payload)
            await writer.drain()

        async def receive() -> int:
            length = int.from_bytes(await reader.readexactly(8), "big")
            return len(await reader.readexactly(length))

        return send, receive

    return (*ends(*near), *ends(*far))


class GeneratedWrite:
    """Puts the binding's own byte-by-byte write back for a while, to show what the shim is worth."""

    def __enter__(self) -> None:
        iroh_ffi._UniffiRustBufferBuilder.write = self.write

    def __exit__(self, *_: object) -> None:
        iroh_fast_write.install()

    @staticmethod
    def write(builder: object, value: bytes) -> None:
        with builder._reserve(len(value)):  # type: ignore[attr-defined]
            for i, byte in enumerate(value):
                builder.rbuf.data[builder.rbuf.len + i] = byte  # type: ignore[attr-defined]


async def measure(rounds: int) -> dict[str, Measured]:
    network = MemoryNetwork()
    kinds: dict[str, Ends] = {
        "tcp": await tcp_ends(),
        "iroh": await link_ends(*[await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1") for _ in range(2)]),
        "memory": await link_ends(network.endpoint("aa" * 32), network.endpoint("bb" * 32)),
    }
    results = {kind: Measured() for kind in [*kinds, "iroh without the fast write"]}
    for _ in range(rounds):
        for kind, ends in kinds.items():
            results[kind].throughput_bytes_per_s.append(await throughput(ends, FRAMES))
            results[kind].round_trip_s += await round_trips(ends)
    with GeneratedWrite():
        slow = results["iroh without the fast write"]
        slow.throughput_bytes_per_s.append(await throughput(kinds["iroh"], SLOW_FRAMES))
        slow.round_trip_s += await round_trips(kinds["iroh"])
    return results


def summary(results: dict[str, Measured]) -> dict[str, dict[str, float]]:
    table = {}
    yardstick = statistics.median(results["tcp"].throughput_bytes_per_s)
    for kind, measured in results.items():
        speed = statistics.median(measured.throughput_bytes_per_s)
        table[kind] = {
            "throughput_mb_per_s": round(speed / 1e6, 1),
            "throughput_over_tcp": round(speed / yardstick, 3),
            "round_trip_median_ms": round(statistics.median(measured.round_trip_s) * 1e3, 3),
            "round_trip_p95_ms": round(statistics.quantiles(measured.round_trip_s, n=20)[-1] * 1e3, 3),
        }
    return table


def claimed(table: dict[str, dict[str, float]]) -> dict[str, float]:
    ours, slow = table["iroh"], table["iroh without the fast write"]
    return {
        "first.3.write": round(ours["throughput_mb_per_s"] / slow["throughput_mb_per_s"], 2),
        "first.3.round-trip": ours["round_trip_median_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = asyncio.run(measure(options.rounds))
    record = {
        "benchmark": "link",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "iroh": version("iroh"),
        "rounds": options.rounds,
        "claims": claims(claimed(summary(results)), machine()),
        "summary": summary(results),
        "raw_throughput_bytes_per_s": {kind: asdict(m)["throughput_bytes_per_s"] for kind, m in results.items()},
    }
    for kind, row in summary(results).items():
        print(f"{kind:28s}", "  ".join(f"{name} {value:g}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
