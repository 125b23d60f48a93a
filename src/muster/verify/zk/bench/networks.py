"""Two small networks, trained here on data that scikit-learn ships, and their weights as integers.

    digits   64 pixels -> 24 ReLU -> 10     1,797 pictures of 8 x 8 (UCI, E. Alpaydin, C. Kaynak), a fifth held out
    dlrm     one-hot categories and dense numbers -> 16 ReLU -> 1, an embedding for each category, as ZKPerf's DLRM is a
             network of layers; whether diabetes progressed more than in the median case (442 patients; B. Efron et al.,
             Least Angle Regression, Annals of Statistics 32, 2004), with sex, decade of age and class of body mass as
             categories

Whole numbers throughout: pixels count to 16, dense numbers have 6 bits behind the point, weights 7; no layer rounds, so
that every proof system computes the same numbers.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from muster.verify.zk.network import NetworkLayer, require

W_BITS = 7
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """Weights as integers of 2**-W_BITS, biases of what they are added to; `x_SK`: held-out inputs."""

    matrices: tuple[Whole, ...]
    biases: tuple[Whole, ...]
    x_SK: Whole
    x_bits: int
    accuracy_float: float
    accuracy_whole: float

    def run(self, x_SK: Whole) -> Whole:
        """Exactly what the circuits compute."""
        y = x_SK
        for number, (w_NK, b_N) in enumerate(zip(self.matrices, self.biases, strict=True)):
            y = y @ w_NK.T + b_N
            y = np.maximum(y, 0) if number < len(self.matrices) - 1 else y
        return y

    def layers(self) -> list[NetworkLayer]:
        """As numbers with a point, for a file; the last layer has no activation."""
        found, scale = [], 2.0**self.x_bits
        for number, (w_NK, b_N) in enumerate(zip(self.matrices, self.biases, strict=True)):
            scale *= 2.0**W_BITS
            last = number == len(self.matrices) - 1
            parts = (w_NK / 2.0**W_BITS).astype(np.float32), (b_N / scale).astype(np.float32)
            found.append(NetworkLayer(*parts, activation="none" if last else "relu"))
        return found

    def inputs(self, number: int = 0) -> list[float]:
        return [float(one) for one in self.x_SK[number] / 2.0**self.x_bits]


@cache
def trained(task: str) -> TrainedNetwork:
    """`digits` or `dlrm`. The same seed gives the same network. Raises `InvalidRequest` without scikit-learn."""
    require("sklearn")
    x_SK, y_S, x_bits, hidden, outputs = _digits() if task == "digits" else _dlrm()
    order = np.random.default_rng(0).permutation(len(x_SK))
    held, kept = order[: len(x_SK) // 5], order[len(x_SK) // 5 :]
    model = _fit(x_SK[kept] / 2.0**x_bits, y_S[kept], hidden, outputs)
    matrices, biases, scale = [], [], x_bits
    for layer in (model[0], model[2]):
        scale += W_BITS
        matrices.append(_whole(layer.weight, W_BITS))
        biases.append(_whole(layer.bias, scale))
    float_S = model(torch.tensor(x_SK[held] / 2.0**x_bits, dtype=torch.float32)).detach().numpy()
    network = TrainedNetwork(tuple(matrices), tuple(biases), x_SK[held], x_bits, _right(float_S, y_S[held]), 0.0)
    accuracy = _right(network.run(network.x_SK), y_S[held])
    return TrainedNetwork(network.matrices, network.biases, network.x_SK, x_bits, network.accuracy_float, accuracy)


def _fit(x_SK: npt.NDArray[np.float64], y_S: Whole, hidden: int, outputs: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(x_SK.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, outputs))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        x, y = torch.tensor(x_SK, dtype=torch.float32), torch.tensor(y_S)
        for _ in range(200):
            out = model(x)
            two = nn.functional.binary_cross_entropy_with_logits
            loss = two(out[:, 0], y.float()) if outputs == 1 else nn.functional.cross_entropy(out, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


def _digits() -> tuple[Whole, Whole, int, int, int]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data.astype(np.int64), data.target.astype(np.int64), 4, 24, 10


def _dlrm() -> tuple[Whole, Whole, int, int, int]:
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    age, sex, mass = data.data[:, 0], data.data[:, 1], data.data[:, 2]
    classes = [sex - 1, np.clip(age // 10 - 1, 0, 6), np.digitize(mass, [18.5, 25, 30, 35])]
    hot = [np.eye(size)[one.astype(int)] for one, size in zip(classes, (2, 7, 5), strict=True)]
    dense = data.data[:, 3:]
    dense = np.clip((dense - dense.mean(0)) / dense.std(0), -4, 4)
    x_SK = np.rint(np.concatenate([*hot, dense], 1) * 64).astype(np.int64)
    return x_SK, (data.target > np.median(data.target)).astype(np.int64), 6, 16, 1


def _whole(tensor: Any, bits: int) -> Whole:
    whole: Whole = np.rint(tensor.detach().double().numpy() * 2.0**bits).astype(np.int64)
    return whole


def _right(out_SN: npt.NDArray[Any], y_S: Whole) -> float:
    said = (out_SN[:, 0] > 0).astype(np.int64) if out_SN.shape[1] == 1 else out_SN.argmax(1)
    return float((said == y_S).mean())
