"""Steps over slow links: Muster's codecs beside `torch.distributed.pipelining`, on the same shaped links in one run.

    sudo python benchmarks/slow_links.py [--rates 10000 1000 500 300 100] [--modes …] [--steps N] [--json FILE]

Four stages in each of two pipelines, on eight hosts of a lab, whose links are real and all alike, and a ninth for
Muster's head. Every stage has an eighth of a core (`--speed`), which both sides keep alike: after each piece of
computing they sleep as long as a machine so slow would still compute, codecs and optimizers included. So eight machines
fit in two cores, and what travels is not paid for with what computes.

Rates are scaled. GPT2-XL in eight stages, as AQ-SGD and TAH-Quant were measured on it, computes a microbatch forward
and back in some 0.147 s a stage (5,700 tokens/s at best, 32 microbatches of 1,024 tokens and 7 slots of bubble), and
sends 6.55 MB of it on in float32: 0.36 times as long at 1 Gbit/s, 3.6 times at 100 Mbit/s. Here a microbatch is 131 kB
and a slot some 0.15 s, so that "100 Mbit/s" are 2.8 Mbit/s; a stage's gradients are 3.1 times what it sends on
in a step (there 3.6). What the ratio came out as is in the record.

yardstick   GPipe and 1F1B, float32 and bfloat16 (hidden states, gradients and sums); the best of both schedules counts
raw         Muster with nothing packed; GPipe, as all of its rows, which waits least where messages take long
direct      hidden states in 4 bits, gradients in 8
aq          their changes in 4 bits (AQ-SGD), gradients in 8
aq-sums     and sums of gradients in 4 bits
low         changes in 2 bits, gradients in 4, sums in 4

The yardstick's ranks wait on the same hosts while Muster trains, and are measured before and after. Seconds are medians
over the steps at a rate, after one that is not counted. Time to a loss: at the slowest rate, from the first step on,
first visits in full among them, until Muster's loss is what nothing packed has after twenty steps; against twenty of
the yardstick's steps.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import machine
from benchmarks.register import claims
from benchmarks.slow_links_model import HIDDEN, LENGTH, MICROBATCHES
from benchmarks.training_lab import HEAD, Net, Wanted, shaped, trained, uniform, worker_specs
from muster.lab.wan.hosts import exec_words

STAGES, PIPELINES, SHARE = 4, 2, 0.12
FASTEST, FASTEST_BYTES_PER_S, LATENCY_S = 10_000, 35e6, 0.002
"""The published network in Mbit/s, and what stands for it here."""
RATES = (10_000, 1_000, 500, 300, 100)
PUBLISHED_SLOT_S, PUBLISHED_BYTES = 0.147, 6.55e6
MICROBATCH_BYTES = 4 * LENGTH * HIDDEN
TO_LOSS = 20
AQ = '[links]\nforward = "aq-4"\nbackward = "int8"\n'
MODES = {
    "raw": "",
    "direct": '[links]\nforward = "channel-4"\nbackward = "int8"\n',
    "aq": AQ,
    "aq-sums": AQ + '[exchange]\ncodec = "int4"\n',
    "low": '[links]\nforward = "aq-2"\nbackward = "channel-4"\n[exchange]\ncodec = "int4"\n',
}
TIMED = ("aq-sums", "low")
"""Those that are timed from the first step on."""
ENDS = str(Path(__file__).resolve().parent / "slow_links_torch.py")
WORKERS = tuple(f"w{number}" for number in range(STAGES * PIPELINES))


class Yardstick:
    def __init__(self, ranks: Sequence["subprocess.Popen[str]"]) -> None:
        self._ranks = ranks
        self.rows: dict[str, list[float]] = {}
        self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        lines = [rank.stdout.readline() for rank in self._ranks if rank.stdout]
        if not all(lines):
            raise SystemExit("A rank of the yardstick ended; what it said is above.")
        return [json.loads(line) for line in lines]

    def measure(self, net: Net, rate: int, schedule: str, dtype: str, steps: int) -> None:
        order = {"schedule": schedule, "dtype": dtype, "microbatches": MICROBATCHES, "steps": steps + 1}
        net.share(rate / FASTEST)
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(json.dumps(order) + "\n")
            rank.stdin.flush()
        seconds = [max(each) for each in zip(*(answer["seconds"] for answer in self._answers()), strict=True)][1:]
        self.rows.setdefault(f"{rate} {dtype} {schedule}", []).extend(seconds)
        print(rate, dtype, schedule, [round(one, 2) for one in seconds], flush=True)

    def best_s(self, rate: int, dtype: str = "float32") -> float:
        """Of a step, by the better schedule."""
        return min(median(seconds) for name, seconds in self.rows.items() if name.startswith(f"{rate} {dtype} "))


@contextmanager
def yardstick(net: Net) -> Iterator[Yardstick]:
    first = net.record.host(WORKERS[0]).address
    ranks = []
    try:
        for rank, name in enumerate(WORKERS):
            words = [sys.executable, ENDS, *map(str, (rank, STAGES, PIPELINES, first, SHARE, LENGTH))]
            command = exec_words(net.record, net.record.host(name), words)
            quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            ranks.append(subprocess.Popen(command, **quiet))  # type: ignore[call-overload]
        yield Yardstick(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


async def one_mode(net: Net, mode: str, rates: Sequence[int], steps: int, folder: Path) -> dict[str, Any]:
    net.share(min(rates) / FASTEST if mode in TIMED else 1.0)
    wanted = Wanted("out", STAGES, PIPELINES, schedule="gpipe", tables=MODES[mode])
    found: dict[str, Any] = {}
    async with trained(net, folder, worker_specs(WORKERS, SHARE), wanted) as pool:
        if mode in TIMED:
            await pool.reach(2 * TO_LOSS)
        else:
            await pool.reach(TO_LOSS if mode == "raw" else 5)
        for rate in rates:
            net.share(rate / FASTEST)
            before = net.passed_bytes(), len(pool.told)
            seconds = await pool.steps(steps)
            megabytes = (net.passed_bytes() - before[0]) / 1e6 / (len(pool.told) - before[1])
            found[str(rate)] = {"seconds": seconds, "step_s": median(seconds), "megabytes": round(megabytes, 2)}
            print(mode, rate, found[str(rate)], flush=True)
        found["losses"] = [event["loss"] for event in pool.told[: 2 * TO_LOSS]]
        found["first_seconds"] = [event["seconds"] for event in pool.told[: 2 * TO_LOSS]]
        found["placed"] = pool.placed
    return found


def to_loss(found: dict[str, Any], goal: float) -> tuple[int, float] | None:
    """Steps and seconds until the loss of a step is no more than `goal`."""
    for step, loss in enumerate(found["losses"], 1):
        if loss <= goal:
            return step, sum(found["first_seconds"][:step])
    return None


def measure(rates: Sequence[int], modes: Sequence[str], steps: int) -> dict[str, Any]:
    hosts = (HEAD, *WORKERS)
    found: dict[str, Any] = {"modes": {}}
    with shaped(uniform(hosts, FASTEST_BYTES_PER_S, LATENCY_S), hosts) as net, yardstick(net) as beside:
        for rate in rates:
            for schedule in ("1f1b", "gpipe"):
                beside.measure(net, rate, schedule, "float32", max(1, steps // 2))
        for mode in modes:
            with tempfile.TemporaryDirectory(prefix="muster-slow-links-") as folder:
                found["modes"][mode] = asyncio.run(one_mode(net, mode, rates, steps, Path(folder)))
        for rate in rates:
            for schedule in ("1f1b", "gpipe"):
                beside.measure(net, rate, schedule, "bfloat16", max(1, steps // 2))
            beside.measure(net, rate, "gpipe", "float32", max(1, steps // 2))
        found["yardstick"] = beside.rows
        found["yardstick_s"] = {
            dtype: {str(rate): beside.best_s(rate, dtype) for rate in rates} for dtype in ("float32", "bfloat16")
        }
    return found | compared(found, rates)


def compared(found: dict[str, Any], rates: Sequence[int]) -> dict[str, Any]:
    plain, slowest = found["yardstick_s"]["float32"], str(min(rates))
    slot_s = plain[str(max(rates))] / (MICROBATCHES + STAGES - 1)
    gains = {
        mode: {str(rate): plain[str(rate)] / one[str(rate)]["step_s"] for rate in rates}
        for mode, one in found["modes"].items()
    }
    said: dict[str, Any] = {"slot_s": slot_s, "gains": gains}
    said["sent_over_slot"] = {
        str(rate): {
            "here": MICROBATCH_BYTES / (FASTEST_BYTES_PER_S * rate / FASTEST) / slot_s,
            "published": PUBLISHED_BYTES * 8 / (rate * 1e6) / PUBLISHED_SLOT_S,
        }
        for rate in rates
    }
    if "raw" in found["modes"]:
        goal = found["modes"]["raw"]["losses"][TO_LOSS - 1]
        said["goal"] = goal
        for mode in TIMED:
            reached = to_loss(found["modes"][mode], goal) if mode in found["modes"] else None
            if reached:
                gain = TO_LOSS * plain[slowest] / reached[1]
                said.setdefault("to_loss", {})[mode] = {"steps": reached[0], "seconds": reached[1], "gain": gain}
    return said


def figures(found: dict[str, Any]) -> dict[str, float]:
    gains, plain = found["gains"], found["yardstick_s"]["float32"]
    said = {}
    if "aq-sums" in gains and "100" in plain:
        said["train.4.slowest"] = gains["aq-sums"]["100"]
        said["train.4.bf16"] = found["yardstick_s"]["bfloat16"]["100"] / found["modes"]["aq-sums"]["100"]["step_s"]
        if "aq-sums" in found.get("to_loss", {}):
            said["train.4.to-loss"] = found["to_loss"]["aq-sums"]["gain"]
    if "aq-sums" in gains and {"500", "10000"} <= plain.keys():
        said["train.4.half"] = 100 * (found["modes"]["aq-sums"]["500"]["step_s"] / plain["10000"] - 1)
    if "raw" in gains and "100" in plain:
        said["train.4.raw"] = gains["raw"]["100"]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=list(RATES), help="published ones, in Mbit/s")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--steps", type=int, default=4, help="that are measured at each rate")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = measure(options.rates, options.modes, options.steps)
    print(json.dumps({key: found[key] for key in found if key not in ("modes", "yardstick")}, indent=1))
    if options.json is not None:
        about = {"benchmark": "slow_links", "method": __doc__ or "", "date": date, "machine": machine()}
        record = about | found | {"claims": claims(figures(found), machine(), date)}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
