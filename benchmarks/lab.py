"""Does the lab do what a scenario says, how fast, and what does a hop of QUIC reach on it? Needs root and TUN.

    python benchmarks/lab.py [PART …] [--json RECORD]

router     Mbit/s of TCP between two hosts without a limit, and for one second of the router's processor time
delay      how far packets are from their time, at 5, 50 and 128 ms one way, sent every 5 ms
loss       packets that the router lost over those that it should have lost, at 1 % and 0.1 % of 100,000 each
agreement  frames of 4 kB to 1 MB over QUIC in the lab, beside our own shaping of the same link in one process: delays,
           and bytes per second once the link is full
hop        100 Mbit/s, 100 ms one way, 0.1 % of packets lost: what one hop of QUIC gets of it

Each part is a lab of its own. All processes share the cores of this machine: other work on it adds to delays.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lab_ends import LISTENING
from benchmarks.records import Claimed, percent, record_parts
from muster.lab.wan import lifecycle
from muster.lab.wan.control import KeeperAnswer, Report, ask
from muster.lab.wan.hosts import exec_words
from muster.lab.wan.record import LabRecord, folder_of
from muster.spec.scenario import parse_scenario

NAME, NETWORK = "bench", "10.78.0.0/24"
ENDS = str(Path(__file__).resolve().parent / "lab_ends.py")
UNLIMITED = 1.25e9
HOP = {"latency_s": 0.1, "bandwidth_bytes_per_s": 12.5e6, "loss": 0.001}
WARM_UP_S, HOP_S = 15, 45
SIZES = (4_096, 65_536, 1_048_576)


class Bench:
    """A lab of two hosts and the programs that were started there."""

    def __init__(self, record: LabRecord, stack: ExitStack) -> None:
        self.record = record
        self._stack = stack

    def start(self, host: str, role: str, *words: str) -> "subprocess.Popen[str]":
        south = self.record.host("south").address
        command = exec_words(self.record, self.record.host(host), [sys.executable, ENDS, role, south, *words])
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._stack.callback(lambda: (child.kill(), child.communicate()))
        return child

    def listen(self, role: str, *words: str) -> "subprocess.Popen[str]":
        child = self.start("south", role, *words)
        assert child.stdout is not None
        if child.stdout.readline().strip() != LISTENING:
            raise SystemExit(f"{role} did not start; run it alone to see why.")
        return child

    def send(self, role: str, *words: str) -> dict[str, Any]:
        """What the sender says at its end; nothing if it says nothing."""
        said = self.start("north", role, *words).communicate()[0].strip().rpartition("\n")[2]
        return dict(json.loads(said)) if said else {}

    def report(self) -> KeeperAnswer:
        return ask(folder_of(NAME), Report())


@contextmanager
def bench(**link: float) -> Iterator[Bench]:
    with ExitStack() as stack:
        record = lifecycle.up(parse_scenario(scenario(**link)), name=NAME, network=NETWORK)
        stack.callback(lifecycle.down, NAME)
        yield Bench(record, stack)


def scenario(**link: float) -> str:
    table = "".join(f"{key} = {value}\n" for key, value in link.items())
    return f'name = "bench"\nregions = ["north", "south"]\n[[link]]\nbetween = ["north", "south"]\n{table}'


def router() -> dict[str, Any]:
    with bench(latency_s=0.0, bandwidth_bytes_per_s=UNLIMITED) as lab:
        receiver = lab.listen("listen_stream")
        before = lab.report()
        lab.send("send_stream", "10")
        received = json.loads(receiver.communicate()[0].strip().rpartition("\n")[2])
        after = lab.report()
    bits = 8 * received["bytes"]
    processor_s = after.processor_s - before.processor_s
    return {
        "mbit_per_s": round(bits / received["seconds"] / 1e6, 1),
        "mbit_per_processor_s": round(bits / processor_s / 1e6, 1),
        "router_processor_share": round(processor_s / received["seconds"], 3),
        "packets_per_processor_s": round((after.packets - before.packets) / processor_s),
        "seconds": received["seconds"],
    }


def delay() -> dict[str, Any]:
    found = {}
    for latency_ms in (5, 50, 128):
        with bench(latency_s=latency_ms / 1000, bandwidth_bytes_per_s=UNLIMITED) as lab:
            lab.listen("listen_echo")
            delays_s = lab.send("send_echo", "400", "0.005")["delays_s"]
            latest_s = lab.report().latest_s
        errors_ms = [1000 * delay_s - latency_ms for delay_s in delays_s]
        found[f"{latency_ms} ms"] = {
            "median_error_ms": round(statistics.median(errors_ms), 3),
            "p95_error_ms": round(statistics.quantiles([abs(error) for error in errors_ms], n=20)[-1], 3),
            "worst_error_ms": round(max(errors_ms, key=abs), 3),
            "router_latest_ms": round(1000 * latest_s, 3),
        }
    return found


def loss() -> dict[str, Any]:
    found, count = {}, 100_000
    for share in (0.01, 0.001):
        with bench(latency_s=0.01, bandwidth_bytes_per_s=UNLIMITED, loss=share) as lab:
            lab.send("send_flood", str(count), "15000")
            there = next(way for way in lab.report().directions if way.source == "north")
        found[f"{share:g}"] = {
            "packets": there.passed + there.lost,
            "lost": there.lost,
            "over_expected": round(there.lost / (share * (there.passed + there.lost)), 4),
            "standard_deviation": round((share * count) ** -0.5, 4),
            "not_seen_by_router": count - there.passed - there.lost - there.dropped,
        }
    return found


def frames(lab: Bench, folder: Path, written: str, seconds: float, sizes: tuple[int, ...]) -> dict[str, Any]:
    """What the sender says, and what came in each second."""
    file = folder / "address"
    file.unlink(missing_ok=True)
    receiver = lab.listen("listen_frames", str(file))
    said = lab.send("send_frames", str(file), written, str(seconds), ",".join(map(str, sizes)))
    receiver.kill()
    rows = [json.loads(line) for line in receiver.communicate()[0].splitlines()]
    return said | {"mbit_per_s": [round(8 * row["bytes"] / row["seconds"] / 1e6, 2) for row in rows]}


def agreement() -> dict[str, Any]:
    """64 ms and 100 Mbit/s without loss, so that both are deterministic but for this machine."""
    link = {"latency_s": 0.064, "bandwidth_bytes_per_s": 12.5e6}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written = folder / "scenario.toml"
        written.write_text(scenario(**link))
        with bench(**link) as lab:
            far = frames(lab, folder, "-", 15, SIZES)
        with bench(latency_s=0.0, bandwidth_bytes_per_s=UNLIMITED) as lab:
            shaped = frames(lab, folder, str(written), 15, SIZES)
    full = {name: statistics.median(sorted(each["mbit_per_s"])[-8:]) for name, each in (("lab", far), ("own", shaped))}
    apart = {size: far["medians_s"][size] / shaped["medians_s"][size] - 1 for size in far["medians_s"]}
    apart["full"] = full["own"] / full["lab"] - 1
    return {"lab": far, "own": shaped, "full_mbit_per_s": full, "apart": {k: round(v, 4) for k, v in apart.items()}}


def hop() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, bench(**HOP) as lab:
        said = frames(lab, Path(temporary), "-", WARM_UP_S + HOP_S, ())
        passed = lab.report()
    moving = [rate for rate in said["mbit_per_s"] if rate > 0]
    steady = moving[WARM_UP_S : WARM_UP_S + HOP_S - 2]
    return {
        "mbit_per_s": said["mbit_per_s"],
        "steady_mbit_per_s": round(statistics.mean(steady), 2),
        "share_of_link": round(statistics.mean(steady) * 1e6 / 8 / HOP["bandwidth_bytes_per_s"], 4),
        "first_5_s_mbit_per_s": round(statistics.mean(moving[:5]), 2),
        "lost": sum(way.lost for way in passed.directions),
        "dropped": sum(way.dropped for way in passed.directions),
        "router_latest_ms": round(1000 * passed.latest_s, 3),
    }


PARTS = {part.__name__: part for part in (router, delay, loss, agreement, hop)}
CLAIMED: dict[str, Claimed] = {
    "router": lambda found: {"ring.10.router": found["mbit_per_processor_s"]},
    "delay": lambda found: {"ring.10.delay": max(row["p95_error_ms"] for row in found.values())},
    "loss": lambda found: {"ring.10.loss": max(percent(abs(row["over_expected"] - 1)) for row in found.values())},
    "agreement": lambda found: {"ring.11": max(percent(abs(apart)) for apart in found["apart"].values())},
    "hop": lambda found: {"ring.12": percent(found["share_of_link"])},
}
ABOUT = {"router": "one process in Python, one thread", "network": "packets of at most 1,500 bytes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record = record_parts(
        options.json, {"benchmark": "lab"}, options.parts or list(PARTS), lambda part: PARTS[part](), ABOUT, CLAIMED
    )
    print(json.dumps({part: record[part]["result"] for part in PARTS if part in record}, indent=1))


if __name__ == "__main__":
    main()
