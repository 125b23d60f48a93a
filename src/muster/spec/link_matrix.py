"""All links of a pool as two square arrays, for searches that look at every pair many times. Knows no search."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from muster.spec.named_links import NamedLinks
from muster.spec.pool import LinkSpeed, Pool

Floats = npt.NDArray[np.float64]


def link_matrices(pool: Pool) -> tuple[Floats, Floats]:
    """One-way latency in seconds and bandwidth in bytes per second, [from, to], in the order of `pool.nodes`.

    The diagonal is 0 s and infinite bandwidth: a machine reaches itself at once.
    """
    if isinstance(pool.links, NamedLinks):
        latency, bandwidth = _by_place(pool, pool.links)
    else:
        ids = [node.id for node in pool.nodes]
        latency, bandwidth = _square(len(ids), lambda source, target: pool.link(ids[source], ids[target]))
    np.fill_diagonal(latency, 0.0)
    np.fill_diagonal(bandwidth, np.inf)
    return latency, bandwidth


def _by_place(pool: Pool, links: NamedLinks) -> tuple[Floats, Floats]:
    """Look up each pair of places once, then spread the answers over their machines."""
    between = _square(
        len(links.places), lambda source, target: links.between_places(source, target) or pool.default_link
    )
    place = np.array([links.place_of(node.id) for node in pool.nodes], dtype=np.intp)
    latency, bandwidth = (array[np.ix_(place, place)] for array in between)
    return latency, bandwidth


def _square(count: int, speed: Callable[[int, int], LinkSpeed]) -> tuple[Floats, Floats]:
    speeds = [[speed(source, target) for target in range(count)] for source in range(count)]
    latency = np.array([[link.latency_s for link in row] for row in speeds], dtype=np.float64)
    bandwidth = np.array([[link.bandwidth_bytes_per_s for link in row] for row in speeds], dtype=np.float64)
    return latency.reshape(count, count), bandwidth.reshape(count, count)
