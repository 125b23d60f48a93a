"""Small random training problems."""

import numpy as np
from hypothesis import strategies as st

from muster.plan.train.dtfm.problem import TrainJob, TrainProblem

SHAPES = [(1, 1), (1, 4), (4, 1), (2, 2), (2, 3), (3, 2), (4, 2), (2, 4), (3, 3), (5, 2), (2, 5), (4, 3)]
"""Replicas x stages that brute force can still do."""


def random_problem(replicas, stages, seed, regions=0):
    """Links drawn anew for every pair of machines, or between `regions` cities into which the machines are thrown."""
    rng = np.random.default_rng(seed)
    count = replicas * stages
    sites = regions or count
    latency = rng.uniform(0, 0.2, (sites, sites))
    bandwidth = rng.uniform(0.3, 5, (sites, sites)) * 1e9 / 8
    site = rng.integers(sites, size=count) if regions else np.arange(count)
    pick = np.ix_(site, site)
    return TrainProblem(latency[pick], bandwidth[pick], TrainJob(replicas, stages, 0.65e9, 0.47e9))


small_problems = st.builds(
    lambda shape, seed, regions: random_problem(*shape, seed, regions),
    st.sampled_from(SHAPES),
    st.integers(0, 10**6),
    st.sampled_from([0, 2, 3, 4]),
)
