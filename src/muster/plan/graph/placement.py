"""Operators on machines, and what that costs: compute, transfers, the pipeline, bytes over slow links.

    T = sum over machines of (C + R) + (microbatches - 1) x max over machines of max(C, R)

with C the seconds of a machine's operators and R those of all it receives, for one microbatch. The formula is the usual
one for a pipeline; it is this project's reading of FusionLLM (arXiv 2410.12707), whose body was not at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muster.cost.pace import TYPICAL, Constants, peak_flops_per_s
from muster.plan.train.dtfm.problem import Floats, Ints
from muster.spec.link_matrix import link_matrices
from muster.spec.operator_graph import OperatorGraph
from muster.spec.pool import Pool


@dataclass(frozen=True, slots=True)
class GraphPlacement:
    pieces: tuple[tuple[int, tuple[int, ...]], ...]
    """(machine, operators) by index, in the order of the pipeline; no piece is empty."""
    step_s: float
    beat_s: float
    """Of one more microbatch."""
    slow_bytes: int
    """Of one microbatch, between machines of different communities."""


class GraphProblem:
    """A graph for a pool, as arrays."""

    def __init__(
        self,
        graph: OperatorGraph,
        pool: Pool,
        microbatches: int = 8,
        dtype: str = "float16",
        bytes_per_parameter_byte: float = 1.0,
        constants: Constants = TYPICAL,
    ) -> None:
        """`bytes_per_parameter_byte`: what a machine keeps for a byte of parameters (training: 8 with AdamW)."""
        self.graph, self.pool, self.microbatches = graph, pool, microbatches
        self.latency_s, self.bandwidth = link_matrices(pool)
        self.speed: Floats = np.array(
            [
                peak_flops_per_s(node.device, dtype) * node.device_count / constants.of(node.device).matmul
                for node in pool.nodes
            ]
        )
        """FLOP/s of each machine."""
        self.caps: Floats = np.array([float(node.device.memory_bytes) * node.device_count for node in pool.nodes])
        self.flops: Floats = np.array([operator.flops for operator in graph.operators])
        self.kept: Floats = bytes_per_parameter_byte * np.array(
            [float(operator.parameter_bytes) for operator in graph.operators]
        )
        self.edges: Ints = np.array(
            [(graph.index[edge.source], graph.index[edge.target], edge.nbytes) for edge in graph.edges], dtype=np.int64
        ).reshape(-1, 3)

    @property
    def count(self) -> int:
        return len(self.pool.nodes)

    def priced(self, pieces: Sequence[tuple[int, Sequence[int]]], communities: Ints) -> GraphPlacement:
        """`communities`: a label per machine."""
        machine = np.full(len(self.graph.operators), -1)
        for where, operators in pieces:
            machine[list(operators)] = where
        computing = np.bincount(machine, weights=self.flops, minlength=self.count) / self.speed
        source, target = machine[self.edges[:, 0]], machine[self.edges[:, 1]]
        sent = np.zeros((self.count, self.count))
        np.add.at(sent, (source, target), self.edges[:, 2])
        np.fill_diagonal(sent, 0)
        with np.errstate(divide="ignore"):
            receiving = np.where(sent > 0, self.latency_s + sent / self.bandwidth, 0.0).sum(axis=0)
        beat_s = float(np.maximum(computing, receiving).max())
        step_s = float((computing + receiving).sum()) + (self.microbatches - 1) * beat_s
        slow = int(sent[communities[:, None] != communities[None, :]].sum())
        kept = tuple((int(where), tuple(map(int, operators))) for where, operators in pieces if len(operators))
        return GraphPlacement(kept, step_s, beat_s, slow)

    def fits(self, machine: int, operators: Sequence[int]) -> bool:
        return float(self.kept[list(operators)].sum()) <= float(self.caps[machine])
