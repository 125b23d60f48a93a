"""Stages that several devices hold together: are they exact, and what happens when a member is lost?

exact     tiny random models of every architecture that can be cut, in 2, 4 and 2-1-2 parts, against the whole: the
          largest difference of a logit. Members are threads of this process
faults    a pool of processes of this machine serves `tiny` by a plan of 2-1-2, with a spare machine in each island.
          Again and again one member, drawn from the seed, is killed or frozen while streams run; each answer is
          compared with what it is without a fault

    python benchmarks/islands.py exact faults [--cases 50] [--seed 0] [--json FILE]
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.records import record_parts
from muster.head.model import load_model
from muster.lab.processes import Child, Lab
from muster.lab.rehearsal import BOOT_S, PLACED_S, is_event
from muster.lab.streams import Prompt, client_of, run_all
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.plan_file import PlanFile, to_record
from muster.spec.pool import Device, Node, Pool
from muster.spec.workload import ServeWorkload

ISLANDS = {"left": 3, "middle": 1, "right": 3}
"""Machines of each: one more than the plan has use for, where two share a stage."""
TOKENS = 48
PROMPTS = tuple(Prompt(f"p{number}", f"def number_{number}(") for number in range(8))
HANGS_S = 120.0


def exact() -> dict[str, Any]:
    from muster.model.conformance import random_model
    from muster.model.rehearsal import largest_difference, sequences
    from tests.model.families import LAYERS, VOCAB, save
    from tests.model.parallel.test_exact_parts import CUT, config_of, islands

    found: dict[str, float] = {}
    for family in CUT:
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(config_of(family))
            path = save(model, Path(folder))
            layouts = (((0, LAYERS), (2,)), ((0, 1, LAYERS), (4, 4)), ((0, 1, 2, LAYERS), (2, 1, 2)))
            found[family] = max(
                largest_difference(model, islands(path, cuts, degrees), sequences(VOCAB)) for cuts, degrees in layouts
            )
        print(f"{family:<12} {found[family]:.2g}", flush=True)
    return {"largest_difference": found}


def write_plan(path: Path) -> None:
    """Two machines, one, and two again: what `muster plan --lock` would write of such a pool."""
    shape = load_model("tiny", "float32").shape
    device = Device("cpu", "cpu", 10**9, {"float32": 1e10}, 1e10, 1e10, 1e10)
    nodes = tuple(Node(name, name, "", device, 2 if count > 1 else 1) for name, count in ISLANDS.items())
    third = shape.num_layers // 3
    stages = (
        Stage("left", 0, third, (0, 1)),
        Stage("middle", third, 2 * third),
        Stage("right", 2 * third, shape.num_layers, (0, 1)),
    )
    plan = Plan(shape.name, (Pipeline(stages, ServeSettings(64, 16, 4)),))
    workload = ServeWorkload(prompt_tokens=32, output_tokens=TOKENS)
    file = PlanFile("throughput", 0, shape, workload, Pool(nodes), plan)
    path.write_text(json.dumps(to_record(file)), encoding="utf-8")


class Machines:
    def __init__(self, lab: Lab, ticket: str) -> None:
        self.lab, self.ticket = lab, ticket
        self.here: dict[str, Child] = {}
        self._started = 0

    async def start(self, island: str) -> None:
        self._started += 1
        name = f"{island}-{self._started}"
        words = ["join", self.ticket, "--name", name, "--device", "cpu", "--island", island, "--memory", "1GB"]
        child = await self.lab.start(name, words)
        await child.wait_for("that it is in the pool", is_event("joined"), BOOT_S)
        self.here[name] = child

    async def strike(self, name: str, kind: str) -> None:
        child = self.here.pop(name)
        if kind == "frozen":
            child.process.send_signal(signal.SIGSTOP)
        else:
            child.kill()

    async def replace(self, name: str, child: Child) -> None:
        child.process.kill()  # frozen or dead, it is gone now
        await self.start(name.rpartition("-")[0])


async def faults(cases: int, seed: int) -> dict[str, Any]:
    random, found = Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.lock"
        write_plan(plan)
        async with Lab(Path(folder)) as lab:
            head = await lab.head("tiny", "--dtype", "float32", "--plan", str(plan), "--min-nodes", "7")
            listening = await head.wait_for("its ticket", is_event("listening"), BOOT_S)
            machines = Machines(lab, listening["ticket"])
            for island, count in ISLANDS.items():
                for _ in range(count):
                    await machines.start(island)
            await head.wait_for("a placement", is_event("placed"), PLACED_S)
            async with client_of(listening["url"]) as client:
                calm, calm_s = await run_all(client, "tiny", PROMPTS, TOKENS, lambda streams: None)
                for case in range(cases):
                    kind = random.choice(("killed", "frozen"))
                    name = random.choice(sorted(one for one in machines.here if not one.startswith("middle")))
                    child = machines.here[name]
                    running = asyncio.ensure_future(run_all(client, "tiny", PROMPTS, TOKENS, lambda streams: None))
                    await asyncio.sleep(random.uniform(0.2, 0.8) * calm_s)
                    struck_s = time.perf_counter()
                    await machines.strike(name, kind)
                    streams, _ = await asyncio.wait_for(running, HANGS_S)
                    later = [[at for at in stream.arrivals if at > struck_s] for stream in streams]
                    wrong = sum(a.text != b.text or b.failed for a, b in zip(calm, streams, strict=True))
                    silence_s = max((times[0] - struck_s for times in later if times), default=0.0)
                    found.append({"kind": kind, "machine": name, "wrong": wrong, "silence_s": round(silence_s, 3)})
                    print(f"case {case}: {found[-1]}", flush=True)
                    await machines.replace(name, child)
    return {"cases": found, "calm_s": calm_s, "seed": seed}


def exact_claims(result: dict[str, Any]) -> dict[str, float]:
    differences = result["largest_difference"].values()
    within = sum(one <= 1e-5 for one in differences)
    return {"islands.1.architectures": within, "islands.1.difference": max(differences)}


def fault_claims(result: dict[str, Any]) -> dict[str, float]:
    cases = result["cases"]
    wrong, silence_s = sum(case["wrong"] for case in cases), max(case["silence_s"] for case in cases)
    return {"islands.2.texts": wrong, "islands.2.silence": silence_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("exact", "faults"))
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record_parts(
        arguments.json,
        {"benchmark": "islands", "method": __doc__ or ""},
        arguments.parts,
        lambda part: exact() if part == "exact" else asyncio.run(faults(arguments.cases, arguments.seed)),
        {"note": arguments.note},
        {"exact": exact_claims, "faults": fault_claims},
    )


if __name__ == "__main__":
    main()
