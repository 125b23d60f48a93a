"""What the search is given: links between N machines, and a training job cut into replicas x stages equal tasks.

Knows nothing of regions, models or devices: only seconds and bytes. Delay and bandwidth are averaged over the two
directions, as DT-FM does (a link carries as much back as forth in this workload).

Source: Yuan et al., "Decentralized Training of Foundation Models in Heterogeneous Environments" (DT-FM),
arXiv 2206.01288, section 3.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from muster.errors import InvalidRequest
from muster.spec.link_matrix import link_matrices
from muster.spec.pool import Pool

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Group = tuple[int, ...]
"""The machines that hold one stage."""
Partition = tuple[Group, ...]
"""One group per stage; every machine is in exactly one."""


@dataclass(frozen=True)
class TrainJob:
    """A training step as DT-FM sees it."""

    replicas: int
    """D_DP: pipelines that run side by side, and so the machines that hold the same stage."""
    stages: int
    """D_PP: machines in one pipeline."""
    gradient_bytes: float
    """c_dp: parameters or gradients of one stage."""
    activation_bytes: float
    """c_pp: activations of one macro-batch between two stages."""

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.stages < 1:
            raise InvalidRequest(f"{self.replicas} replicas x {self.stages} stages; give at least one of each.")
        sizes = (self.gradient_bytes, self.activation_bytes)
        if not all(np.isfinite(size) and size >= 0 for size in sizes):
            raise InvalidRequest(f"Gradients of {sizes[0]} and activations of {sizes[1]} bytes; give zero or more.")


@dataclass(frozen=True, eq=False)
class TrainProblem:
    """A job for as many machines as it has tasks. `latency_s[i, j]` is one way; the diagonals are ignored."""

    latency_s: Floats
    bandwidth_bytes_per_s: Floats
    job: TrainJob

    @classmethod
    def of_pool(cls, pool: Pool, job: TrainJob) -> "TrainProblem":
        """Machine i is `pool.nodes[i]`."""
        return cls(*link_matrices(pool), job)

    def __post_init__(self) -> None:
        for name, matrix in (("latency", self.latency_s), ("bandwidth", self.bandwidth_bytes_per_s)):
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
                raise InvalidRequest(
                    f"The {name} matrix is {matrix.shape}, not square; give a row and column per machine."
                )
        if self.latency_s.shape != self.bandwidth_bytes_per_s.shape:
            counts = f"{len(self.latency_s)} machines and bandwidth for {len(self.bandwidth_bytes_per_s)}"
            raise InvalidRequest(f"Latency is given for {counts}; give both for the same machines.")
        self._check_links()
        if self.replicas * self.stages != self.count:
            raise InvalidRequest(
                f"{self.replicas} replicas x {self.stages} stages need {self.replicas * self.stages} machines and "
                f"there are {self.count}; DT-FM's objective uses every machine once, so change the counts or the fleet."
            )

    def _check_links(self) -> None:
        others = ~np.eye(self.count, dtype=bool)
        latency, bandwidth = self.latency_s, self.bandwidth_bytes_per_s
        for i, j in np.argwhere(others & ~(np.isfinite(latency) & (latency >= 0)))[:1]:
            raise InvalidRequest(f"The latency from machine {i} to {j} is {latency[i, j]}; give seconds, zero or more.")
        for i, j in np.argwhere(others & ~(np.isfinite(bandwidth) & (bandwidth > 0)))[:1]:
            raise InvalidRequest(
                f"The bandwidth from machine {i} to {j} is {bandwidth[i, j]}; give bytes per second above zero, "
                "or leave the machine out."
            )

    @property
    def count(self) -> int:
        return len(self.latency_s)

    @property
    def replicas(self) -> int:
        return self.job.replicas

    @property
    def stages(self) -> int:
        return self.job.stages

    @cached_property
    def data_parallel_s(self) -> Floats:
        """Both ways of a parameter-server shard between two machines (the summand of eq. 2); zero on the diagonal."""
        return self._there_and_back(self.job.gradient_bytes / self.replicas)

    @cached_property
    def pipeline_s(self) -> Floats:
        """Activations forth and their gradients back between two machines (inside eq. 3); zero on the diagonal."""
        return self._there_and_back(self.job.activation_bytes)

    def _there_and_back(self, nbytes: float) -> Floats:
        seconds = np.zeros((self.count, self.count))
        i, j = np.nonzero(~np.eye(self.count, dtype=bool))
        latency = (self.latency_s[i, j] + self.latency_s[j, i]) / 2
        bandwidth = (self.bandwidth_bytes_per_s[i, j] + self.bandwidth_bytes_per_s[j, i]) / 2
        seconds[i, j] = 2 * (latency + nbytes / bandwidth)
        return seconds

    @cached_property
    def kinds(self) -> Ints:
        """A number per machine; machines with the same number can be exchanged and nothing changes."""
        looks: dict[bytes, list[int]] = {}
        kinds = np.arange(self.count)
        for i in range(self.count):
            row = np.concatenate([np.sort(self.data_parallel_s[i]), np.sort(self.pipeline_s[i])])
            alike = looks.setdefault(row.tobytes(), [])
            same = next((j for j in alike if self._interchangeable(i, j)), None)
            if same is None:
                alike.append(i)
            else:
                kinds[i] = same
        return np.unique(kinds, return_inverse=True)[1].astype(np.int64)

    def _interchangeable(self, i: int, j: int) -> bool:
        others = np.ones(self.count, dtype=bool)
        others[[i, j]] = False
        matrices = (self.data_parallel_s, self.pipeline_s)
        return all(bool((matrix[i, others] == matrix[j, others]).all()) for matrix in matrices)
