"""Groth16 and PLONK by snarkjs and circom, as programs of their own: `npm` fetches pinned versions into the cache.

They are GPL-3.0 and no part of Muster, which neither ships nor imports them. Powers of tau and keys are made here, by
one party: sound only if the verifier made them.
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from muster.disk import cache_directory
from muster.verify.zk.bench import circuits
from muster.verify.zk.bench.networks import TrainedNetwork
from muster.verify.zk.bench.rows import ProverFigures, repeated
from muster.verify.zk.child import ChildLimits, ChildResult, WhyNot, run
from muster.verify.zk.fixed import MODULUS

PACKAGES = {"snarkjs": "0.7.6", "circom2": "0.2.23", "circomlib": "2.0.5"}
HEAP_MB = 1_500
"""Of JavaScript. Every worker reserves as much again, beside gigabytes for WebAssembly: with 6 GB each, forty were not
enough, and proofs hung."""
SCRIPTS = ("snark.mjs", "powers.mjs")
SYSTEMS = {"groth16": "Groth16 (snarkjs)", "plonk": "PLONK (snarkjs)"}


@dataclass(frozen=True, slots=True)
class SnarkTask:
    """A circuit with an input; `expected` are the public signals that it must have, where they are known."""

    name: str
    source: str
    values: dict[str, object]
    power: int
    """Of two: as many constraints have room. PLONK counts additions, too, and gets two more."""
    expected: tuple[str, ...] | None = None


def merkle_task() -> SnarkTask:
    return SnarkTask("merkle-poseidon", circuits.merkle_path(), circuits.merkle_input(), 12)


def network_task(name: str, trained: TrainedNetwork) -> SnarkTask:
    out = [str(int(one) % MODULUS) for one in trained.run(trained.x_SK[:1])[0]]
    inputs = [str(int(one) % MODULUS) for one in trained.x_SK[0]]
    values: dict[str, object] = {"x": inputs}
    return SnarkTask(name, circuits.network(trained), values, 10, (*out, *inputs))


def folder_of_packages() -> Path | WhyNot:
    """Fetch the packages once; the folder that has them."""
    folder = cache_directory() / "zk" / "node"
    wanted = json.dumps({"private": True, "type": "module", "dependencies": PACKAGES})
    if shutil.which("node") is None or shutil.which("npm") is None:
        return WhyNot("node and npm are not installed; install Node.js 20 or later")
    done = folder / "installed.json"
    if not done.exists() or done.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(wanted)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--json"]
        fetched = run(command, ChildLimits(4_000, 300, by_resident=True), folder)
        if isinstance(fetched, WhyNot) and not (folder / "node_modules" / "snarkjs").is_dir():
            return WhyNot(f"npm could not fetch its packages: {fetched.reason}")
        done.write_text(wanted)
    for name in SCRIPTS:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    return folder


def prove_snark(system: str, task: SnarkTask, limits: ChildLimits) -> ProverFigures | WhyNot:
    """Set up once, prove three times; every public value changed in turn, and each proof without its first point."""
    folder = folder_of_packages()
    if isinstance(folder, WhyNot):
        return folder
    work = folder / "work" / task.name
    work.mkdir(parents=True, exist_ok=True)
    (work / "circuit.circom").write_text(task.source)
    (work / "input.json").write_text(json.dumps(task.values))
    call = partial(_call, folder, system, f"work/{task.name}", limits)
    ready = call("setup", str(task.power + 2 * (system == "plonk")))
    if isinstance(ready, WhyNot):
        return ready
    return repeated(lambda: _figures(task, ready, call("prove")))


def _call(folder: Path, system: str, work: str, limits: ChildLimits, mode: str, *more: str) -> ChildResult | WhyNot:
    heap = f"--max-old-space-size={min(limits.memory_mb, HEAP_MB)}"
    within = ChildLimits(limits.memory_mb, limits.seconds, by_resident=True)
    return run(["node", heap, "snark.mjs", mode, system, work, *more], within, folder)


def _figures(task: SnarkTask, ready: ChildResult, done: ChildResult | WhyNot) -> ProverFigures | WhyNot:
    if isinstance(done, WhyNot):
        return done
    said: dict[str, Any] = done.said
    if task.expected is not None and tuple(said["signals"]) != task.expected:
        return WhyNot("proved other numbers than the network has")
    if said["accepted"]:
        return WhyNot(f"{said['accepted']} changed proofs were accepted")
    powers = f"; powers of tau in {ready.said['powers_s']:.0f} s" if ready.said["powers_s"] else ""
    return ProverFigures(
        prove_s=said["prove_s"],
        verify_ms=said["verify_ms"],
        proof_bytes=said["proof_bytes"],
        peak_mb=done.peak_mb,
        size=ready.said["size"],
        setup_s=ready.said["setup_s"],
        setup_bytes=ready.said["setup_bytes"],
        note=f"set-up by one party: sound only if the verifier made it{powers}",
    )
