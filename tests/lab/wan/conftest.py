"""A lab of its own for tests of this folder; without root or TUN they are skipped, and say so."""

import os
import random
from collections.abc import Iterator

import pytest

from muster.errors import MachineTrouble
from muster.lab.wan import lifecycle
from muster.lab.wan.namespaces import check_able
from muster.lab.wan.record import LabRecord
from muster.spec.scenario import parse_scenario

NETWORK = """
name = "two-towns"
regions = ["north", "south"]
[[link]]
between = ["north", "south"]
latency_s = 0.02
bandwidth_bytes_per_s = 12500000
"""


@pytest.fixture(scope="session")
def place() -> tuple[str, str]:
    """Name and network that no other lab of this machine is likely to have."""
    try:
        check_able()
    except MachineTrouble as error:
        pytest.skip(f"NOT TESTED: labs with real packets. {error}")
    dice = random.Random(os.getpid())
    return f"t{os.getpid() % 10**8}", f"10.{dice.randrange(100, 250)}.{dice.randrange(250)}.0/24"


@pytest.fixture
def lab(place: tuple[str, str]) -> Iterator[LabRecord]:
    """Two towns 20 ms apart, with 100 Mbit/s."""
    name, network = place
    yield lifecycle.up(parse_scenario(NETWORK), name=name, network=network)
    lifecycle.down(name)
