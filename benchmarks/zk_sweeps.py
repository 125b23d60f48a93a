"""What one number of a circuit's layout does to a proof by ezkl: columns, rows, digits, functions, Freivalds' check.

Everything else stays as it is, on the network of digits that the table uses. Each point is a proof in a process of its
own. What follows is said in words made of the figures (`conclusions`).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from muster.verify.zk.bench.networks import trained
from muster.verify.zk.child import ChildLimits, ChildResult, WhyNot
from muster.verify.zk.halo2 import CircuitShape, Halo2Circuit
from muster.verify.zk.network import NetworkLayer, onnx_bytes
from muster.verify.zk.sample import sample

LIMITS = ChildLimits(8_000, 100)
COLUMNS = (1, 2, 4, 8, 16, 32)
K = (11, 12, 13, 14, 15)
DIGITS = ((16, 7), (64, 5), (256, 4), (1024, 3), (4096, 3), (16_384, 2))
Point = dict[str, Any]


def sweeps() -> dict[str, Any]:
    found = {name: list(points()) for name, points in SWEEPS.items()}
    return found | {"conclusions": conclusions(found)}


def columns() -> Iterator[Point]:
    """At the smallest k for each; digits of 64, whose table never asks for rows."""
    network, x, start = sample()
    for count in COLUMNS:
        yield _point({"columns": count}, network, x, replace(start, columns=count, base=64, legs=5))


def rows() -> Iterator[Point]:
    network, x, start = sample()
    for k in K:
        yield _point({"forced_k": k}, network, x, replace(start, columns=4, base=1024, legs=3), k)


def digits() -> Iterator[Point]:
    network, x, start = sample()
    for base, legs in DIGITS:
        shape = replace(start, columns=4, base=base, legs=legs)
        yield _point({"base": base, "legs": legs}, network, x, shape)


def functions() -> Iterator[Point]:
    """The same two matrices without function between them, with digits (ReLU) and with a table (sigmoid)."""
    _, x, start = sample()
    first, last = trained("digits").layers()
    shape = replace(start, columns=4, base=1024, legs=3, x_bits=7, rebase=1)
    for kind in ("none", "relu", "sigmoid"):
        network = onnx_bytes(len(x), [NetworkLayer(first.w_NK, first.b_N, activation=kind), last])
        table = {"lookup": (-8192, 8192)} if kind == "sigmoid" else {}
        yield _point({"function": kind}, network, x, replace(shape, **table))


def freivalds() -> Iterator[Point]:
    """A product of matrices, 32 x 64 by 64 x 64."""
    random = np.random.default_rng(0)
    network, x = _product(random.normal(size=(64, 64)) / 8), random.normal(size=32 * 64).tolist()
    for on in (False, True):
        yield _point({"freivalds": on}, network, x, CircuitShape(columns=4, base=1024, legs=3, freivalds=on))


SWEEPS = {"columns": columns, "rows": rows, "digits": digits, "functions": functions, "freivalds": freivalds}


def _product(weights: Any) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 64]) for name in ("x", "y")]
    held = [numpy_helper.from_array(weights.astype(np.float32), "w")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _point(about: Point, network: bytes, x: list[float], shape: CircuitShape, k: int | None = None) -> Point:
    with TemporaryDirectory(prefix="muster-zk-") as folder:
        circuit = Halo2Circuit(Path(folder), LIMITS)
        circuit.write(network, x)
        done: ChildResult | WhyNot = circuit.prove(shape, k)
    if isinstance(done, WhyNot):
        return about | {"reason": done.reason}
    said, seconds = done.said, done.said["seconds"]
    point = about | {
        "k": said["k"], "rows": said["settings"]["num_rows"], "prove_s": seconds["prove"],
        "verify_ms": 1000 * seconds["verify"], "peak_mb": done.peak_mb, "holds": said["holds"],
    }  # fmt: skip
    print(point, flush=True)
    return point


def conclusions(found: dict[str, list[Point]]) -> list[str]:
    """In words; nothing is said of points that could not be proven."""
    done = {name: [one for one in points if "prove_s" in one] for name, points in found.items()}
    said = []
    if len(done["columns"]) > 2:
        best = min(done["columns"], key=lambda one: one["prove_s"])
        ends = done["columns"][0], done["columns"][-1]
        where = "between the ends" if best not in ends else "at an end of the sweep: no optimum was found"
        times = [f"{one['prove_s'] / best['prove_s']:.1f} times as long with {one['columns']}" for one in ends]
        said.append(f"halo2: {best['columns']} columns are fastest, {where}; {' and '.join(times)}.")
    if len(done["rows"]) > 1:
        first, last = done["rows"][0], done["rows"][-1]
        ratio = (last["prove_s"] / first["prove_s"]) ** (1 / (last["k"] - first["k"]))
        said.append(f"halo2: each doubling of the table's rows takes {ratio:.2f} times as long, used or not.")
    if len(done["digits"]) > 1:
        best, worst = (pick(done["digits"], key=lambda one: one["prove_s"]) for pick in (min, max))
        times = worst["prove_s"] / best["prove_s"]
        said.append(
            f"halo2: digits of {best['base']} are fastest; digits of {worst['base']} take {times:.1f} times as long."
        )
    kinds = {one["function"]: one for one in done["functions"]}
    if {"none", "relu"} <= kinds.keys():
        share = 1 - kinds["none"]["rows"] / kinds["relu"]["rows"]
        costs = "nonlinearities cost most" if share > 0.5 else "the linear part costs most"
        said.append(f"halo2: ReLU by digits is {share:.0%} of the rows, so {costs}.")
    if {"relu", "sigmoid"} <= kinds.keys():
        ratio = kinds["sigmoid"]["prove_s"] / kinds["relu"]["prove_s"]
        said.append(
            f"halo2: a function by a table of 16,384 entries takes {ratio:.1f} times as long as ReLU by digits."
        )
    if len(done["freivalds"]) == 2:
        off, on = done["freivalds"]
        said.append(
            f"halo2: Freivalds' check takes {on['prove_s'] / off['prove_s']:.2f} times the seconds and "
            f"{on['rows'] / off['rows']:.2f} times the rows of 32 inputs multiplied in full."
        )
    return said


def above_optimum(points: list[Point]) -> float:
    """By how much the lower end of the sweep is above its optimum, as a multiple; 1 where that is at an end."""
    seconds = [one["prove_s"] for one in points if "prove_s" in one]
    return round(min(seconds[0], seconds[-1]) / min(seconds), 2)


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Three pictures: seconds against columns, rows, and digits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    labels = {
        "columns": ("inner columns (rows: a power of two, the smallest that holds them)", lambda one: one["columns"]),
        "rows": ("rows of the table, 4 columns", lambda one: 2 ** one["k"]),
        "digits": ("base of digits, as many as cover 28 bits", lambda one: one["base"]),
    }
    made = []
    for name, (label, of) in labels.items():
        points = [one for one in found[name] if "prove_s" in one]
        figure, axes = plt.subplots(figsize=(7, 4.2))
        axes.plot([of(one) for one in points], [one["prove_s"] for one in points], "o-", color="#4269d0")
        for one in points:
            axes.annotate(
                f"2**{one['k']} rows\n{one['prove_s']:.2f} s", (of(one), one["prove_s"]), xytext=(0, 9),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks([of(one) for one in points], [f"{of(one):,}" for one in points])
        axes.set(xlabel=label, ylabel="seconds of proving")
        axes.set_ylim(0, 1.25 * max(one["prove_s"] for one in points))
        axes.margins(x=0.1)
        axes.set_title(f"Network of digits by ezkl: {name}")
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        made.append(folder / f"zk-{name}.png")
        figure.savefig(made[-1], dpi=110)
        plt.close(figure)
    return made
