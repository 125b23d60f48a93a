"""The network that layouts are tried on: 64 -> 64 with ReLU -> 16, with weights drawn from a seed."""

from itertools import pairwise

import numpy as np

from muster.verify.zk.network import NetworkLayer, onnx_bytes

WIDTHS = (64, 64, 16)


def sample(seed: int = 0) -> tuple[bytes, list[float]]:
    """Its file, and an input."""
    random = np.random.default_rng(seed)
    pairs = pairwise(WIDTHS)
    matrices = [(random.normal(size=(n, k)) / np.sqrt(k)).astype(np.float32) for k, n in pairs]
    layers = [NetworkLayer(w_NK, activation="relu" if w_NK is not matrices[-1] else "none") for w_NK in matrices]
    return onnx_bytes(WIDTHS[0], layers), random.normal(size=WIDTHS[0]).tolist()
