"""Who stands where in a lab: hosts, their regions and addresses. Pure; starts nothing.

The first host has the first address of the network, and so on; the last one is the seat of this machine itself, from
which every host is reached without delay.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from itertools import combinations

from muster.errors import InvalidRequest
from muster.spec.scenario import Scenario
from muster.spec.written import suggest

DEFAULT_NETWORK = "10.77.0.0/24"
MAX_HOSTS = 64
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    region: str
    address: str


@dataclass(frozen=True, slots=True)
class LabLayout:
    scenario: Scenario
    network: IPv4Network
    hosts: tuple[Host, ...]

    @property
    def seat(self) -> IPv4Interface:
        """Where this machine itself sits."""
        return self.interface(str(self.network.broadcast_address - 1))

    def interface(self, address: str) -> IPv4Interface:
        return IPv4Interface(f"{address}/{self.network.prefixlen}")

    def host(self, name: str) -> Host:
        """Raises `InvalidRequest` that names the hosts there are."""
        found = next((host for host in self.hosts if host.name == name), None)
        if found is None:
            raise InvalidRequest(
                f"No host of the lab is called {name!r}; {suggest(name, [host.name for host in self.hosts])}", "host"
            )
        return found


def lay_out(scenario: Scenario, words: Sequence[str] = (), network: str = DEFAULT_NETWORK) -> LabLayout:
    """A host for each of `words`, which are `NAME:REGION` or a region; without words one for each region.

    Raises `InvalidRequest` for names, regions, pairs of regions and networks that cannot be used.
    """
    pairs = [_read(word, scenario) for word in words] or [(region, region) for region in scenario.regions]
    names = [name for name, _ in pairs]
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name for a host; use small letters, digits and hyphens.", "host")
        if names.count(name) > 1:
            raise InvalidRequest(f"Two hosts are called {name}; write ada:{name} to give one another name.", "host")
    if len(pairs) > MAX_HOSTS:
        raise InvalidRequest(f"A lab has at most {MAX_HOSTS} hosts, not {len(pairs)}; leave some out.", "host")
    _check_pairs(scenario, {region for _, region in pairs})
    within = _network(network, len(pairs))
    hosts = [Host(*pair, str(within.network_address + number)) for number, pair in enumerate(pairs, 1)]
    return LabLayout(scenario, within, tuple(hosts))


def _read(word: str, scenario: Scenario) -> tuple[str, str]:
    name, _, region = word.partition(":")
    region = region or name
    if region not in scenario.regions:
        known = suggest(region, scenario.regions)
        raise InvalidRequest(f"{region!r} is no region of the scenario {scenario.name}; {known}", "host")
    return name, region


def _check_pairs(scenario: Scenario, regions: set[str]) -> None:
    """A lab is no place to guess: a pair that the scenario says nothing of is an oversight."""
    if "elsewhere" in scenario.model_fields_set:
        return
    said = {frozenset(link.between) for link in scenario.link}
    for one, other in combinations(sorted(regions), 2):
        if frozenset((one, other)) not in said:
            raise InvalidRequest(
                f"The scenario {scenario.name} says nothing of {one} and {other}; add a [[link]] between them, or "
                "[elsewhere] for all pairs that have none.",
                "scenario",
            )


def _network(text: str, num_hosts: int) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no network; write one like {DEFAULT_NETWORK}.", "network") from None
    if network.num_addresses < num_hosts + 3:
        raise InvalidRequest(f"{text} has too few addresses for {num_hosts} hosts; write a /24.", "network")
    return network
