"""Published measurements (`published.toml`) and the forecast of each. Fits nothing and draws nothing.

Twice: as the source used its devices, so that like is compared with like, and as `muster plan` would use them.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.cost.named_shapes import named_shape
from muster.cost.pace import Constants
from muster.plan.serve.cuts import Cut, Item
from muster.plan.serve.fleet import sort_into_classes
from muster.plan.serve.job import make_job
from muster.plan.serve.layout import team, whole
from muster.plan.serve.options import Objective, ServeOptions
from muster.plan.serve.realise import realise
from muster.plan.serve.replica import Replica, Replicas
from muster.plan.serve.search import plan_serving
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool
from muster.spec.workload import ServeWorkload

FILE = Path(__file__).parent / "published.toml"
ALONE_PER_S = 1e-4
"""So few requests that each has the pool to itself."""
LINK = "[elsewhere]\nlatency_s = 0.00025\nbandwidth_bytes_per_s = 1.25e9\n"
"""Between machines of one data centre."""
GENERATED, PROMPT, FIRST_MS, BETWEEN_MS = "tokens/s", "prompt tokens/s", "ms to first token", "ms between tokens"


@dataclass(frozen=True)
class Row:
    """One published measurement; the file says what the fields mean."""

    id: str
    source: str
    model: str
    device: str
    prompt: int
    output: int
    figure: float
    unit: str = GENERATED
    count: int = 1
    split: str = ""
    users: int = 1
    rate: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether it may fit constants, or only reports the error."""
        return hashlib.sha256(self.id.encode()).digest()[0] % 2 == 0

    @property
    def one_by_one(self) -> bool:
        return self.users == 1

    @property
    def objective(self) -> Objective:
        return "latency" if self.one_by_one else "throughput"

    @property
    def workload(self) -> ServeWorkload:
        return ServeWorkload(self.prompt, self.output, (self.rate or ALONE_PER_S) if self.one_by_one else None)

    @property
    def shape(self) -> ModelShape:
        return named_shape(self.model, "float16" if self.device in ("t4", "v100-16gb") else None)

    @property
    def pool_text(self) -> str:
        """As a user would write it."""
        apart = self.split in ("machines", "replicas")
        how_many = f"count = {self.count}" if apart else f"devices = {self.count}"
        lines = [f'name = "{self.id}"', "", "[[machine]]", 'name = "box"', f'device = "{self.device}"', how_many]
        # Sources that split a model between machines may have swapped its cache.
        lines += ['host_memory = "64GB"', ""] if self.split == "machines" else [""]
        return "\n".join([*lines, LINK if apart and self.count > 1 else ""])

    @property
    def pool(self) -> Pool:
        return parse_pool(self.pool_text)

    @property
    def command(self) -> str:
        words = ["muster", "plan", self.model, "--pool", f"{self.id}.toml"]
        words += ["--prompt-tokens", str(self.prompt), "--output-tokens", str(self.output)]
        if self.one_by_one:
            words += ["--objective", "latency", "--rate", f"{self.rate or ALONE_PER_S:g}"]
        if self.users > 1:
            words = ["muster", "simulate", *words[2:], "--requests", str(self.users)]
        return " ".join(words)


def read(path: Path = FILE) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """The rows, and the sources by name."""
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Row(**one) for one in written["measurement"]], written["source"]


def as_used(row: Row, constants: Constants) -> Plan:
    """The plan that splits the model as the source did, with the batch that is best for it."""
    shape, pool = row.shape, row.pool
    options = ServeOptions(objective=row.objective, swap=row.split == "machines")
    fleet = sort_into_classes(pool)
    job = make_job(shape, fleet, row.workload, options, constants)
    order, cuts = _order_and_cuts(row, fleet.class_of, shape.num_layers)
    setting = Replicas(job).setting(order, cuts)
    if setting is None:
        raise ValueError(f"{row.id}: not one request fits")
    replica = Replica(order, cuts, setting, 1.0)
    if row.split == "replicas":
        layout = tuple(whole(fleet, [node]) for node in range(row.count))
    else:
        layout = (team(whole(fleet, range(len(fleet.nodes)))),)
    return realise(fleet, shape, options, layout, [replica] * len(layout), [True] * len(layout))


def _order_and_cuts(row: Row, class_of: Sequence[int], layers: int) -> tuple[tuple[Item, ...], tuple[Cut, ...]]:
    """Of one replica."""
    degree = {"tensor": row.count, "tensor 2": 2}.get(row.split, 1)
    if row.split in ("", "replicas"):
        return (Item(class_of[0], 1),), (Cut(0, 1, 0, layers),)
    stages = row.count // degree
    ends = [round(layers * stage / stages) for stage in range(stages + 1)]
    apart = row.split == "machines"
    order = tuple(Item(one, 1) for one in class_of) if apart else (Item(class_of[0], row.count),)
    return order, tuple(Cut(i if apart else 0, degree, *ends[i : i + 2]) for i in range(stages))


def as_planned(row: Row, constants: Constants) -> Plan:
    options = ServeOptions(objective=row.objective)
    return plan_serving(row.shape, row.pool, row.workload, options, constants).plan


def figure(row: Row, plan: Plan, constants: Constants) -> float:
    """What was published, forecast."""
    shape, pool = row.shape, row.pool
    if row.users > 1:
        work = replace(row.workload, requests_per_s=None)
        return simulate_serving(plan, pool, shape, work, constants=constants, num_requests=row.users).tokens_per_s
    forecast = serve_forecast(plan, pool, shape, row.workload, constants)
    if row.users == 0:
        return forecast.tokens_per_s
    return {
        GENERATED: 1 / forecast.seconds_per_token,
        PROMPT: row.prompt / forecast.time_to_first_token_s,
        FIRST_MS: 1e3 * forecast.time_to_first_token_s,
        BETWEEN_MS: 1e3 * forecast.seconds_per_token,
    }[row.unit]


def faster(row: Row, forecast: float) -> float:
    """Forecast over published, above 1 if the forecast is too fast."""
    return row.figure / forecast if row.unit in (FIRST_MS, BETWEEN_MS) else forecast / row.figure
