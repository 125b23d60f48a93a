"""The network that layouts are tried on: the digits of the table, 64 -> 24 with ReLU -> 10, trained here."""

from dataclasses import replace

from muster.verify.zk.bench.networks import W_BITS, trained
from muster.verify.zk.halo2 import CircuitShape
from muster.verify.zk.network import onnx_bytes
from muster.verify.zk.tune import EXACT


def sample() -> tuple[bytes, list[float], CircuitShape]:
    """Its file, a held-out input, and bits with which its whole numbers stand exactly."""
    network = trained("digits")
    start = replace(EXACT, x_bits=network.x_bits, w_bits=W_BITS)
    return onnx_bytes(network.x_SK.shape[1], network.layers()), network.inputs(), start
