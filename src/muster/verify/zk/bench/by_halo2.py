"""The two networks by ezkl."""

import json
from pathlib import Path

from muster.verify.zk.bench.networks import W_BITS, TrainedNetwork
from muster.verify.zk.bench.rows import ProverFigures
from muster.verify.zk.child import ChildLimits, WhyNot
from muster.verify.zk.fixed import from_words
from muster.verify.zk.halo2 import CircuitShape, Halo2Circuit
from muster.verify.zk.network import onnx_bytes

SYSTEM = "halo2-KZG (ezkl 23)"
COLUMNS, BASE, LEGS = 2, 1024, 3


def prove_network(network: TrainedNetwork, folder: Path, limits: ChildLimits) -> ProverFigures | WhyNot:
    """One held-out input, and the output compared to what the integers say."""
    circuit = Halo2Circuit(folder, limits)
    circuit.write(onnx_bytes(network.x_SK.shape[1], network.layers()), network.inputs())
    shape = CircuitShape(COLUMNS, BASE, LEGS, x_bits=network.x_bits, w_bits=W_BITS, rebase=10)
    done = circuit.prove(shape)
    if isinstance(done, WhyNot):
        return done
    if not done.said["holds"]:
        return WhyNot(f"its own proof does not hold: {done.said['why']}")
    proof = json.loads((folder / "proof.json").read_text())
    said = from_words(proof["instances"][0])[network.x_SK.shape[1] :]
    if said != network.run(network.x_SK[:1])[0].tolist():
        return WhyNot("proved other numbers than the network has")
    seconds = done.said["seconds"]
    return ProverFigures(
        prove_s=seconds["prove"] + seconds["witness"],
        verify_ms=seconds["verify"] * 1000,
        proof_bytes=len(proof["proof"]),
        peak_mb=done.peak_mb,
        size=done.said["settings"]["num_rows"],
        setup_s=seconds["keys"] + seconds["compile"],
        setup_bytes=done.said["proving_key_bytes"],
        note="parameters made here: sound only if the verifier made them",
    )
