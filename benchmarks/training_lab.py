"""A training run over machines of a lab, for benchmarks: hosts with shaped links, a head, and workers that join it.

with shaped(bandwidth, latency_s, hosts) as net:
    net.share(0.1)                               # a tenth of the bandwidth on every link from now on
    async with trained(net, folder, workers, run) as pool:
        seconds = await pool.steps(3)
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.slow_links_model import LENGTH, MICROBATCHES, model_config, write_tokenizer
from muster.lab.hosted import HostedLab, wide_area
from muster.lab.processes import Child, Event, Lab, WorkerSpec
from muster.lab.rehearsal import BOOT_S, is_event
from muster.lab.wan.control import KeeperAnswer, Report, SlowHosts, ask
from muster.lab.wan.record import LabRecord, folder_of
from muster.spec.scenario import Scenario, parse_scenario

NAME, NETWORK, HEAD = "training", "10.79.0.0/24", "head"
ROOM_BYTES = 64 * 2**20
LONG_S = 900.0
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "training.md"
RUN = """
model = "config.json"
tokenizer = "tokenizer"
out = "{out}"
steps = {steps}
stages = {stages}
replicas = {replicas}
device = "cpu"
evaluate_every = 0
checkpoint_every = {checkpoint_every}

[data]
files = ["texts.txt"]

[batch]
sequences = {sequences}
length = {length}
schedule = "{schedule}"

[optimizer]
learning_rate = 1e-3
warm_up_steps = 5
epsilon = 1e-5
"""


@dataclass(frozen=True)
class Net:
    record: LabRecord
    hosts: tuple[str, ...]

    def share(self, factor: float) -> None:
        """So much of its bandwidth is left to every link."""
        for one, other in combinations(self.hosts, 2):
            ask(folder_of(NAME), SlowHosts(one, other, factor))

    def report(self) -> KeeperAnswer:
        return ask(folder_of(NAME), Report())

    def passed_bytes(self) -> int:
        return sum(way.passed_bytes for way in self.report().directions)


def uniform(hosts: Sequence[str], bandwidth_bytes_per_s: float, latency_s: float) -> Scenario:
    """All links alike."""
    link = f"latency_s = {latency_s}\nbandwidth_bytes_per_s = {bandwidth_bytes_per_s}\n"
    return parse_scenario(f'name = "alike"\nregions = {json.dumps(list(hosts))}\n[elsewhere]\n{link}')


@contextmanager
def shaped(scenario: Scenario, hosts: Sequence[str]) -> Iterator[Net]:
    """`hosts` are NAME:REGION, or a region of the same name; the head's is among them."""
    with wide_area(scenario, list(hosts), beside=HEAD, name=NAME, network=NETWORK) as record:
        yield Net(record, tuple(host.name for host in record.hosts))


@dataclass(frozen=True)
class Wanted:
    """A run. `tables` are more of its file, such as `[links]`."""

    out: str
    stages: int
    replicas: int
    steps: int = 100_000
    texts: int = 32
    schedule: str = "1f1b"
    checkpoint_every: int = 0
    tables: str = ""

    def write(self, folder: Path) -> Path:
        write_tokenizer(folder / "tokenizer")
        (folder / "config.json").write_text(model_config(self.stages).to_json_string())
        (folder / "texts.txt").write_bytes(DOCUMENT.read_bytes()[: self.texts * LENGTH])
        path = folder / f"{self.out}.toml"
        path.write_text(
            RUN.format(
                out=self.out,
                steps=self.steps,
                stages=self.stages,
                replicas=self.replicas,
                checkpoint_every=self.checkpoint_every,
                sequences=self.replicas * MICROBATCHES,
                length=LENGTH,
                schedule=self.schedule,
            )
            + self.tables
        )
        return path


@dataclass
class TrainingPool:
    head: Child
    lab: Lab
    workers: dict[str, Child]
    ticket: str

    @property
    def told(self) -> list[Event]:
        """Steps, as the head tells them."""
        return [event for event in self.head.events if event.get("event") == "step"]

    @property
    def placed(self) -> list[list[str]]:
        """Names of the machines of each pipeline, in its order, as they were placed last."""
        found: list[list[str]] = []
        for stage in [event for event in self.head.events if event.get("event") == "placed"][-1]["stages"]:
            if stage["first"] == 0:
                found.append([])
            found[-1].append(stage["name"])
        return found

    @property
    def holders(self) -> set[str]:
        """Names of the machines that hold a stage."""
        return {name for names in self.placed for name in names}

    async def reach(self, step: int) -> None:
        await self.head.wait_for(f"step {step}", lambda event: event.get("step", -1) >= step, LONG_S)

    async def steps(self, count: int, skip: int = 1) -> list[float]:
        """Seconds of the next `count` steps, after one that was under way and `skip` more."""
        done = len(self.told)
        since = done + 1 + skip
        while len(self.told) < since + count:
            await self.reach(self.told[-1]["step"] + 1 if self.told else 1)
        return [event["seconds"] for event in self.told[since : since + count]]


@asynccontextmanager
async def trained(
    net: Net, folder: Path, workers: Sequence[WorkerSpec], wanted: Wanted, lab_class: Any = HostedLab
) -> AsyncIterator[TrainingPool]:
    """Workers are on the hosts of their names. The run begins as soon as all are there."""
    async with (
        lab_class(folder / "lab", net.record) as lab,
        training(lab, folder, workers, wanted) as pool,
    ):
        yield pool


@asynccontextmanager
async def training(
    lab: Lab, folder: Path, workers: Sequence[WorkerSpec], wanted: Wanted
) -> AsyncIterator[TrainingPool]:
    """Likewise on this machine itself, or on whatever hosts `lab` has."""
    folder.mkdir(parents=True, exist_ok=True)
    head = await lab.start(HEAD, ["train", str(wanted.write(folder)), "--pool", str(len(workers))])
    ticket = (await head.wait_for("its ticket", is_event("listening"), BOOT_S))["ticket"]
    joined = {spec.name: await lab.worker(spec, ticket) for spec in workers}
    pool = TrainingPool(head, lab, joined, ticket)
    await pool.reach(1)
    yield pool


def worker_specs(names: Sequence[str], share: float) -> list[WorkerSpec]:
    return [WorkerSpec(name, "home", ROOM_BYTES, share) for name in names]
