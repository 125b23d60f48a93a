"""Do networks in pieces train as torch alone does, on both planes? Five networks, fifty steps.

    python benchmarks/graph_planes.py [--steps 50] [--networks NAME …] [--json FILE]

Each network (`tests/model/graph/nets`) is cut at four places into five pieces. `torch`: all on the torch plane;
`mixed`: every second piece in ONNX Runtime, steps in NumPy. Beside them torch in one process, same batches, same start:
SGD with a rate of 0.05. Gradients are those of the first step. Differences are the largest over all numbers.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.records import machine
from benchmarks.register import claims
from muster.model.backends.base import Array, Plane
from muster.model.backends.onnx_export import onnx_models
from muster.model.backends.onnx_plane import OnnxPlane
from muster.model.backends.torch_plane import TorchPlane
from muster.model.graph.capture import capture
from muster.model.graph.pieces import evenly
from muster.model.graph.program import GraphPiece
from tests.model.graph.nets import CASES, made
from tests.train.graph.networks import alone, arrays, network, sgd

RATE, PIECES = 0.05, 5


def mixed(piece: GraphPiece) -> Plane:
    return OnnxPlane(onnx_models(piece)) if piece.index % 2 else TorchPlane()


def largest(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    return max(float(np.abs(one[name].astype("float64") - other[name]).max()) for name in one)


def measured(name: str, steps: int) -> dict[str, Any]:
    module, batch = made(name)
    batches = [batch() for _ in range(steps)]
    captured = capture(module, tuple(batches[0].values()))
    cut = evenly(captured, PIECES)
    losses, weights = alone(made(name)[0], batches, RATE)
    reference = made(name)[0]
    reference(*batches[0].values()).backward()
    gradients = {key: one.grad.numpy() for key, one in reference.named_parameters() if one.grad is not None}
    start = {key: one.numpy().copy() for key, one in captured.weights.items()}
    found: dict[str, Any] = {"operators": sum(map(len, cut)), "loss": [losses[0], losses[-1]]}
    for kind, plane in (("torch", lambda piece: TorchPlane()), ("mixed", mixed)):
        began_s = time.perf_counter()
        net = network(captured, cut, sgd(RATE), plane=plane)
        made_s, ours = time.perf_counter() - began_s, []
        for number, one in enumerate(batches):
            ours.append(float(net.step([arrays(captured, one)])[0][captured.outputs[0]]))
            if number == 0:
                after = net.weights()
                moved = {key: (start[key] - after[key]) / RATE for key in captured.parameters}
        end = net.weights()
        found[kind] = {
            "gradient_difference": largest({key: moved[key] for key in gradients if key in moved}, gradients),
            "loss_difference": max(abs(a - b) for a, b in zip(ours, losses, strict=True)),
            "weight_difference": largest(
                {key: end[key] for key in captured.parameters}, {key: one.numpy() for key, one in weights.items()}
            ),
            "seconds_to_make": round(made_s, 2),
            "seconds_a_step": round((time.perf_counter() - began_s - made_s) / steps, 4),
        }
    print(name, json.dumps(found), flush=True)
    return found


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    if found.keys() < CASES.keys():
        return {}
    kinds = ("torch", "mixed")
    return {
        "graph.1.gradients": max(one["torch"]["gradient_difference"] for one in found.values()),
        "graph.1.steps": max(one["torch"]["loss_difference"] for one in found.values()),
        "graph.2.planes": max(one[kind]["loss_difference"] for one in found.values() for kind in kinds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = {name: measured(name, options.steps) for name in options.networks}
    if options.json is not None:
        about = {"benchmark": "graph-planes", "method": __doc__ or "", "date": date, "machine": machine()}
        record = about | {"networks": found, "claims": claims(figures(found), machine(), date)}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
