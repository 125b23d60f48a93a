"""What `benchmarks/lab.py` runs on the hosts of a lab, a process for each end. Knows no lab.

    python benchmarks/lab_ends.py ROLE ADDRESS [FIGURES…]

One end listens, the other sends and prints one line of JSON. All hosts share the machine's monotonic clock, so a delay
is one way, and not half of a round trip.
"""

import asyncio
import json
import socket
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

PORT = 5001
CHUNK_BYTES = 1 << 18
PATIENCE_S = 60.0
LISTENING = "listening"


def listen_stream(address: str) -> None:
    with socket.create_server(("", PORT)) as door:
        door.settimeout(PATIENCE_S)
        print(LISTENING, flush=True)
        channel, _ = door.accept()
    buffer, count, started_s = bytearray(CHUNK_BYTES), 0, time.monotonic()
    with channel:
        while size := channel.recv_into(buffer):
            count += size
    print(json.dumps({"bytes": count, "seconds": time.monotonic() - started_s}))


def send_stream(address: str, seconds: str) -> None:
    data, until_s = bytes(CHUNK_BYTES), time.monotonic() + float(seconds)
    with socket.create_connection((address, PORT), PATIENCE_S) as channel:
        while time.monotonic() < until_s:
            channel.sendall(data)


def listen_echo(address: str) -> None:
    """Answer each packet with the time at which it came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("", PORT))
        print(LISTENING, flush=True)
        while True:
            _, sender = door.recvfrom(2000)
            door.sendto(repr(time.monotonic()).encode(), sender)


def send_echo(address: str, count: str, pause_s: str) -> None:
    """Delays one way."""
    delays_s = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        for _ in range(int(count)):
            asked_s = time.monotonic()
            channel.sendto(b"?", (address, PORT))
            delays_s.append(float(channel.recv(100)) - asked_s)
            time.sleep(float(pause_s))
    print(json.dumps({"delays_s": delays_s}))


def send_flood(address: str, count: str, packets_per_s: str) -> None:
    """Small packets to nobody who answers: the router counts which are lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        started_s = time.monotonic()
        for number in range(int(count)):
            if number % 50 == 0:
                time.sleep(max(0.0, started_s + number / float(packets_per_s) - time.monotonic()))
            with suppress(ConnectionError):  # the host says that nobody listens
                channel.sendto(b"!", (address, PORT))
    print(json.dumps({"sent": int(count)}))


def listen_frames(address: str, file: str) -> None:
    asyncio.run(_listen_frames(Path(file)))


async def _listen_frames(file: Path) -> None:
    """An endpoint of QUIC that answers a frame with the time at which it was there, and says what came each second."""
    import msgspec

    from muster.errors import MusterError
    from muster.link.base import Channel, Connection
    from muster.link.identity import Identity
    from muster.link.iroh import IrohEndpoint
    from muster.wire.messages.transfer import Ping

    endpoint = await IrohEndpoint.bind(Identity.generate())
    file.with_suffix(".new").write_bytes(msgspec.json.encode(endpoint.address))
    file.with_suffix(".new").rename(file)
    print(LISTENING, flush=True)
    received = 0
    tasks = set()

    async def read(channel: Channel) -> None:
        nonlocal received
        with suppress(MusterError):
            while True:
                message, payload = await channel.receive()
                received += len(payload)
                if isinstance(message, Ping) and message.token:
                    await channel.send(Ping(token=1), repr(time.monotonic()).encode())

    async def serve(connection: Connection) -> None:
        with suppress(MusterError):
            while True:
                tasks.add(asyncio.create_task(read((await connection.accept())[1])))

    async def accept() -> None:
        while True:
            tasks.add(asyncio.create_task(serve(await endpoint.accept())))

    tasks.add(asyncio.create_task(accept()))
    while True:
        before, since_s = received, time.monotonic()
        await asyncio.sleep(1.0)
        print(json.dumps({"bytes": received - before, "seconds": time.monotonic() - since_s}), flush=True)


def send_frames(address: str, file: str, scenario: str, seconds: str, sizes: str) -> None:
    asyncio.run(_send_frames(Path(file), scenario, float(seconds), [int(size) for size in sizes.split(",") if size]))


async def _send_frames(file: Path, scenario: str, seconds: float, sizes: list[int]) -> None:
    """The median delay of frames of each size, one after another; then as much as passes, for so many seconds.

    With a `scenario` (else `-`) the link is shaped in this process.
    """
    import msgspec

    from muster.link.identity import Identity
    from muster.link.iroh import IrohEndpoint
    from muster.link.shaped import load_scenario, shape
    from muster.wire.messages.base import Address
    from muster.wire.messages.transfer import Ping

    target = msgspec.json.decode(file.read_bytes(), type=Address)
    endpoint = await IrohEndpoint.bind(Identity.generate())
    places = {target.node: "south", endpoint.node_id: "north"}
    shaped = endpoint if scenario == "-" else shape(endpoint, load_scenario(scenario), places.get)
    connection = await shaped.dial(target)
    channel = await connection.open("bulk")
    medians_s = {}
    for size in sizes:
        payload, delays_s = bytes(size), []
        for _ in range(9):
            asked_s = time.monotonic()
            await channel.send(Ping(token=1), payload)
            _, came_s = await channel.receive()
            delays_s.append(float(bytes(came_s)) - asked_s)
        medians_s[size] = statistics.median(delays_s[2:])
    payload, until_s = bytes(CHUNK_BYTES), time.monotonic() + seconds
    while time.monotonic() < until_s:
        await channel.send(Ping(token=0), payload)
    print(json.dumps({"medians_s": medians_s}), flush=True)
    await connection.close()


ROLES = {
    role.__name__: role
    for role in (listen_stream, send_stream, listen_echo, send_echo, send_flood, listen_frames, send_frames)
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
