"""Layouts of a training pool on links that differ: the planner's against topology-blind ones, beside the forecast.

    sudo python benchmarks/layouts.py [--blind 3] [--steps N] [--codecs] [--json FILE]

Eight machines in four cities, two in each, as in DT-FM's world-wide fleet: inside a city 5 ms and 2 Gbit/s, between
cities 67-210 ms and 0.37-1.16 Gbit/s, by the published table. Hosts of a lab stand for them, with real latencies and
with bandwidths scaled to the model as in `slow_links`. Two pipelines of four stages of `slow_links`' model.

planner   as `muster train --pool 8` places them, by the links that the machines have measured among themselves
blind     drawn by a seed, without a look at links, as DT-FM's baseline

Each is run, and forecast (`sim/train`) on the scenario's own links with a stage's time measured beforehand in one
process. With `--codecs` all are run again with what `slow_links` calls `aq-sums`.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.records import machine
from benchmarks.register import claims
from benchmarks.slow_links import FASTEST, FASTEST_BYTES_PER_S, MODES, PIPELINES, SHARE, STAGES, WORKERS
from benchmarks.slow_links_model import LENGTH, MICROBATCHES
from benchmarks.training_lab import HEAD, Net, Wanted, shaped, trained, worker_specs
from muster.lab.hosted import HostedLab
from muster.lab.wan.hosts import exec_words
from muster.lab.wan.record import LabRecord
from muster.model.shape import shape_of
from muster.sim.train.forecast import train_forecast
from muster.spec.link_table import link_table
from muster.spec.plan import Pipeline, Plan, Stage, TrainSettings
from muster.spec.pool import Device, LinkSpeed, Node, Pool
from muster.spec.scenario import BothWays, Link, Scenario
from muster.spec.training import parse_run
from muster.spec.workload import TrainWorkload
from muster.train.run import Running, prepare

CITIES = ("Oregon", "Virginia", "Tokyo", "London")
INSIDE_S, INSIDE_MBIT = 0.005, 2000.0
Layout = list[list[str]]


def scaled(mbit_per_s: float) -> float:
    return FASTEST_BYTES_PER_S * mbit_per_s / FASTEST


def world() -> Scenario:
    table = link_table("ten-cities").matrix
    index = {name.lower(): number for number, name in enumerate(table.of)}
    links = []
    for number, one in enumerate(CITIES):
        for other in CITIES[number + 1 :]:
            a, b = index[one.lower()], index[other.lower()]
            mbit = table.bandwidth_bytes_per_s[a][b] * 8 / 1e6
            links.append(
                BothWays(
                    between=(one.lower(), other.lower()),
                    latency_s=table.latency_s[a][b],
                    bandwidth_bytes_per_s=scaled(mbit),
                )
            )
    inside = Link(latency_s=INSIDE_S, bandwidth_bytes_per_s=scaled(INSIDE_MBIT))
    return Scenario(name="cities", regions=tuple(city.lower() for city in CITIES), inside=inside, link=tuple(links))


def city_of(worker: str) -> str:
    """Neighbours by name are far from each other."""
    return CITIES[WORKERS.index(worker) % len(CITIES)].lower()


def hosts() -> list[str]:
    return [f"{HEAD}:{CITIES[1].lower()}", *(f"{worker}:{city_of(worker)}" for worker in WORKERS)]


def blind(seed: int) -> Layout:
    drawn = random.Random(seed).sample(WORKERS, len(WORKERS))
    return [drawn[STAGES * pipeline : STAGES * (pipeline + 1)] for pipeline in range(PIPELINES)]


class LayoutLab(HostedLab):
    """Whose head lays out as it is told; [] leaves it to the planner."""

    def __init__(self, layout: Layout, folder: Path, record: LabRecord) -> None:
        super().__init__(folder, record)
        self.layout = layout

    def command(self, name: str) -> list[str]:
        if name != HEAD:
            return super().command(name)
        words = [sys.executable, str(Path(__file__).parent / "layout_head.py"), json.dumps(self.layout)]
        return exec_words(self._record, self._record.host(name), words)


def slot_seconds(folder: Path) -> float:
    """Of a microbatch on a stage, forward and back, at the speed that workers lend: all stages in this process."""
    torch.set_num_threads(1)
    wanted = Wanted("alone", STAGES, PIPELINES, steps=6)
    path = wanted.write(folder)
    prepared = prepare(parse_run(path.read_text()), folder, lambda words: None)
    running = Running(prepared, [torch.device("cpu")], lambda words: None)
    running.step()
    began_s = time.process_time()
    for _ in range(4):
        running.step()
    return (time.process_time() - began_s) / 4 / (STAGES * PIPELINES * MICROBATCHES) / SHARE


def forecast_s(layout: Layout, scenario: Scenario, folder: Path, slot_s: float) -> float:
    shape = shape_of((folder / "config.json").read_text(), "slow", "float32")
    device = Device("cpu", "a stage", 2**32, {"float32": 1e11}, 1e10)  # its optimizer's step is in a slot's time
    nodes = tuple(Node(name, name, city_of(name), device) for name in WORKERS)
    links = {}
    for one in WORKERS:
        for other in WORKERS:
            if one != other:
                link = scenario.between(city_of(one), city_of(other))
                links[one, other] = LinkSpeed(link.latency_s, link.bandwidth_bytes_per_s)
    pipelines = tuple(
        Pipeline(
            tuple(Stage(name, stage, stage + 1, (0,)) for stage, name in enumerate(row)),
            TrainSettings(MICROBATCHES, 1, LENGTH),
        )
        for row in layout
    )
    workload = TrainWorkload(PIPELINES * MICROBATCHES, LENGTH, 1, "adamw", False, "1f1b")
    plan = Plan(shape.name, pipelines)
    seconds = dict.fromkeys(WORKERS, slot_s)
    return train_forecast(plan, Pool(nodes, links), shape, workload, stage_seconds=seconds).step_s


async def run(net: Net, layout: Layout, tables: str, steps: int, folder: Path) -> dict[str, Any]:
    wanted = Wanted("out", STAGES, PIPELINES, tables=tables)
    async with trained(net, folder, worker_specs(WORKERS, SHARE), wanted, partial(LayoutLab, layout)) as pool:
        await pool.reach(5 if tables else 1)
        seconds = await pool.steps(steps)
        return {"placed": pool.placed, "seconds": seconds, "step_s": median(seconds)}


def measure(blinds: int, steps: int, codecs: bool) -> dict[str, Any]:
    scenario = world()
    found: dict[str, Any] = {"layouts": {}}
    layouts: dict[str, Layout] = {"planner": []} | {f"blind {seed}": blind(seed) for seed in range(blinds)}
    with tempfile.TemporaryDirectory(prefix="muster-layouts-") as temporary, shaped(scenario, hosts()) as net:
        home = Path(temporary)
        found["slot_s"] = slot_s = slot_seconds(home)
        for tables in ("", MODES["aq-sums"])[: 1 + codecs]:
            for name, layout in layouts.items():
                key = name + " with codecs" * bool(tables)
                one = asyncio.run(run(net, layout, tables, steps, home / key.replace(" ", "-")))
                if not tables:
                    one["forecast_s"] = forecast_s(one["placed"], scenario, home, slot_s)
                    one["off"] = 100 * abs(one["forecast_s"] / one["step_s"] - 1)
                found["layouts"][key] = one
                print(key, one, flush=True)
    for suffix in ("", " with codecs")[: 1 + codecs]:
        blind_s = [found["layouts"][f"blind {seed}{suffix}"]["step_s"] for seed in range(blinds)]
        found[f"gain{suffix}"] = mean(blind_s) / found["layouts"][f"planner{suffix}"]["step_s"]
    return found


def figures(found: dict[str, Any]) -> dict[str, float]:
    said = {
        "train.8.layout": found["gain"],
        "train.8.forecast": max(one["off"] for one in found["layouts"].values() if "off" in one),
    }
    if "gain with codecs" in found:
        said["train.4.placement"] = found["gain with codecs"]
    return said


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blind", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--codecs", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = measure(options.blind, options.steps, options.codecs)
    print({key: value for key, value in found.items() if key != "layouts"})
    if options.json is not None:
        about = {"benchmark": "layouts", "method": __doc__ or "", "date": date, "machine": machine()}
        record = about | found | {"claims": claims(figures(found), machine(), date)}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
