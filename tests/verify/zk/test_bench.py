"""The table's tasks: networks of whole numbers, circuits, and cells that say why they are empty."""

from pathlib import Path

import pytest

from muster.verify.zk.bench import by_halo2, by_longfellow, by_snarkjs, circuits, table
from muster.verify.zk.bench.rows import TASKS, BenchRow, ProverFigures, repeated
from muster.verify.zk.child import ChildLimits, WhyNot

FIGURES = ProverFigures(1.0, 5.0, 800, 100.0, 10, 2.0, 1000)


def test_a_cell_is_the_median_of_three_runs_or_a_reason() -> None:
    times = iter([3.0, 1.0, 2.0])
    found = repeated(lambda: ProverFigures(next(times), 5.0, 800, 100.0, 10, 2.0, 1000))
    assert isinstance(found, ProverFigures)
    assert (found.prove_s, found.runs, found.proof_bytes) == (2.0, 3, 800)
    assert repeated(lambda: WhyNot("too large")) == WhyNot("too large")
    once = repeated(lambda: ProverFigures(61.0, 5.0, 800, 100.0, 10, 2.0, 1000))
    assert isinstance(once, ProverFigures)
    assert once.runs == 1
    assert BenchRow("dlrm", "any", FIGURES).record()["prove_s"] == 1.0
    assert BenchRow("dlrm", "any", WhyNot("too large")).record()["reason"] == "too large"


def test_every_cell_that_no_prover_fills_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provers stand still here; what is left are reasons."""
    monkeypatch.setattr(by_snarkjs, "prove_snark", lambda system, task, limits: FIGURES)
    monkeypatch.setattr(by_halo2, "prove_network", lambda network, folder, limits: FIGURES)
    monkeypatch.setattr(by_longfellow, "prove_signature", lambda folder, limits: FIGURES)
    monkeypatch.setattr(by_snarkjs, "network_task", lambda task, trained: None)
    monkeypatch.setattr(table, "trained", lambda task: None)
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == "groth16py" else object())
    found = list(table.rows(ChildLimits()))
    assert len(found) == len(TASKS) * len(table.SYSTEMS)
    filled = {(one.task, one.system) for one in found if isinstance(one.found, ProverFigures)}
    snarks = by_snarkjs.SYSTEMS.values()
    assert filled == {
        ("ecdsa", by_longfellow.SYSTEM),
        *((task, system) for task in ("merkle-poseidon", "digits", "dlrm") for system in snarks),
        *((task, by_halo2.SYSTEM) for task in ("digits", "dlrm")),
    }
    assert all(len(one.found.reason) > 10 for one in found if isinstance(one.found, WhyNot))


def test_a_cell_that_fails_costs_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(system: str, task: object, limits: ChildLimits) -> ProverFigures:
        raise KeyError("prove_s")

    monkeypatch.setattr(by_snarkjs, "prove_snark", fails)
    found = list(table.rows(ChildLimits(), "merkle-poseidon"))
    assert len(found) == len(table.SYSTEMS)
    reasons = {one.system: one.found.reason for one in found if isinstance(one.found, WhyNot)}
    assert all("KeyError" in reasons[system] for system in by_snarkjs.SYSTEMS.values())


def test_networks_of_whole_numbers_are_as_right_as_those_of_floats() -> None:
    pytest.importorskip("sklearn", reason="the extra `zk` is not installed: no network is trained here")
    from muster.verify.zk.bench.networks import trained

    digits, dlrm = trained("digits"), trained("dlrm")
    assert digits.accuracy_float > 0.95
    assert dlrm.accuracy_float > 0.65
    for one in (digits, dlrm):
        assert one.accuracy_whole > one.accuracy_float - 0.02
        source = circuits.network(one)
        assert source.count("relu[") >= len(one.matrices[0])
        assert f"signal output y[{len(one.matrices[1])}]" in source


@pytest.mark.chaos
@pytest.mark.parametrize("system", list(by_snarkjs.SYSTEMS))
def test_snarks_refuse_every_changed_public_value(system: str) -> None:
    """Minutes, and fetches Node packages: `snark.mjs` changes every public value in turn and cuts the proof."""
    from muster.verify.zk.bench.networks import trained

    task = by_snarkjs.network_task("dlrm", trained("dlrm"))
    found = by_snarkjs.prove_snark(system, task, ChildLimits(6_000, 280))
    assert isinstance(found, ProverFigures), found


@pytest.mark.chaos
def test_longfellow_refuses_another_claim_transcript_and_a_cut_proof(tmp_path: Path) -> None:
    pytest.importorskip("pylongfellow", reason="pylongfellow is not installed: nothing is proven by it here")
    found = by_longfellow.prove_signature(tmp_path, ChildLimits(6_000, 100))
    assert isinstance(found, ProverFigures), found
