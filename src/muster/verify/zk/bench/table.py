"""The table: every task by every prover, each cell figures or the reason why there are none."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from muster.verify.zk.bench import by_halo2, by_longfellow, by_snarkjs
from muster.verify.zk.bench.networks import trained
from muster.verify.zk.bench.rows import TASKS, BenchRow, ProverFigures, Task, repeated
from muster.verify.zk.child import ChildLimits, WhyNot

HONK = "UltraHonk (Noir)"
NATIVE = "Groth16 (groth16py)"
SYSTEMS = (by_halo2.SYSTEM, *by_snarkjs.SYSTEMS.values(), HONK, by_longfellow.SYSTEM, NATIVE)
NETWORKS = ("digits", "dlrm")
NO_SUCH_OPERATOR = "ezkl proves graphs of tensor operators; none of them computes in another field or with bits"
TOO_MANY = {
    "ecdsa": "about 1.5 million constraints by published circuits; powers of tau for 2**21 take hours here",
    "merkle-keccak": "11 levels at about 150,000 constraints; powers of tau for 2**21 take hours here",
}
ONLY_CREDENTIALS = "its circuits prove signed credentials and nothing else"
CEREMONY = (
    "bb 5.0.0 proves here, but verifies only by the ceremony's parameters, which npm does not have; older ones need a "
    "newer C library"
)


def rows(limits: ChildLimits, only: str = "", say: Callable[[str], None] = lambda words: None) -> Iterator[BenchRow]:
    """One by one, as they are found. `only`: a task."""
    for task in TASKS:
        if only and task != only:
            continue
        for system in SYSTEMS:
            say(f"{task} by {system}")
            with TemporaryDirectory(prefix="muster-zk-") as folder:
                yield BenchRow(task, system, _cell_or_why_not(task, system, Path(folder), limits))


def _cell_or_why_not(task: Task, system: str, folder: Path, limits: ChildLimits) -> ProverFigures | WhyNot:
    """A cell that fails, for whatever reason, costs no other one."""
    try:
        return _cell(task, system, folder, limits)
    except Exception as error:
        return WhyNot(f"failed: {type(error).__name__}: {error}")


def _cell(task: Task, system: str, folder: Path, limits: ChildLimits) -> ProverFigures | WhyNot:
    if system == by_halo2.SYSTEM:
        return _by_halo2(task, folder, limits)
    if system == by_longfellow.SYSTEM:
        if task != "ecdsa":
            return WhyNot(ONLY_CREDENTIALS)
        return repeated(lambda: by_longfellow.prove_signature(folder, limits))
    if system == HONK:
        return WhyNot(CEREMONY)
    if system == NATIVE:
        there = importlib.util.find_spec("groth16py") is not None
        return WhyNot("is installed, but not driven by this command yet" if there else "GPL-3.0; not installed")
    if task in TOO_MANY:
        return WhyNot(TOO_MANY[task])
    which = next(name for name, title in by_snarkjs.SYSTEMS.items() if title == system)
    found = by_snarkjs.merkle_task() if task not in NETWORKS else by_snarkjs.network_task(task, trained(task))
    return by_snarkjs.prove_snark(which, found, limits)


def _by_halo2(task: Task, folder: Path, limits: ChildLimits) -> ProverFigures | WhyNot:
    if task not in NETWORKS:
        return WhyNot(NO_SUCH_OPERATOR)
    missing = [name for name in ("ezkl", "onnx", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        return WhyNot(f"{' and '.join(missing)} not installed; pip install 'muster-llm[zk]'")
    return repeated(lambda: by_halo2.prove_network(trained(task), folder, limits))
