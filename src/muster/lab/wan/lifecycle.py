"""A lab goes up and down, whatever happened to the one before. Knows no packets."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from muster.errors import InvalidRequest, MachineTrouble, from_code
from muster.lab.wan.keeper import Order
from muster.lab.wan.layout import DEFAULT_NETWORK, lay_out
from muster.lab.wan.namespaces import check_able
from muster.lab.wan.programs import kill_all, marked_processes, processes
from muster.lab.wan.record import (
    DEFAULT_NAME,
    LabRecord,
    all_records,
    make_folder,
    read_record,
    remove_folder,
    running,
)
from muster.spec.scenario import Scenario

MARK = "MUSTER_LAB"
"""In the environment of whatever runs on a host: the name of its lab."""
END_S = 15.0


def up(
    scenario: Scenario,
    hosts: Sequence[str] = (),
    *,
    name: str = DEFAULT_NAME,
    network: str = DEFAULT_NETWORK,
    seed: int = 0,
) -> LabRecord:
    """Bring a lab up in a process of its own. What a dead one of this name left is removed first.

    Raises `InvalidRequest` for hosts and networks that cannot be, and for a lab that is up already; `MachineTrouble`
    where the machine does not allow it.
    """
    lay_out(scenario, hosts, network)
    check_able()
    known = read_record(name)
    if known is not None and known.alive:
        raise InvalidRequest(
            f"A lab called {name} is up already, with {known.scenario}; end it with `muster lab down`, or give this "
            "one another --name and --network.",
            "name",
        )
    sweep(name)
    _check_free(IPv4Network(network))
    folder = make_folder(name)
    order = Order(name, scenario.model_dump_json(exclude_unset=True), tuple(hosts), network, seed)
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "muster.lab.wan.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    said, _ = keeper.communicate(msgspec.json.encode(order))
    if said.strip() != b"{}":
        trouble = _trouble(said, folder / "keeper.log")
        remove_folder(name)
        raise trouble
    return running(name)


def down(name: str = DEFAULT_NAME) -> bool:
    """End the lab and all that runs on its hosts; whether there was one, dead or alive."""
    record = read_record(name)
    if record is None:
        return False
    if record.alive:
        with suppress(ProcessLookupError):
            os.kill(record.keeper, signal.SIGTERM)
        until = time.monotonic() + END_S
        while record.alive and time.monotonic() < until:
            time.sleep(0.02)
    if record.alive:
        os.kill(record.keeper, signal.SIGKILL)
    sweep(name)
    return True


def sweep(name: str) -> int:
    """Remove what a lab left whose keeper is gone; how many programs were killed."""
    record = read_record(name)
    left = 0
    if record is not None:
        left = kill_all(partial(_left, record))
        remove_folder(name)
    return left


def _left(record: LabRecord) -> list[int]:
    """Programs of a dead lab: marked by its name, in a namespace that was one of its own.

    Neither tells enough by itself: numbers of namespaces come again, and a mark is inherited by what left the lab.
    """
    marked = set(marked_processes(MARK, record.name))
    return [pid for host in record.hosts for pid in processes(host.inode) if pid in marked]


def _check_free(network: IPv4Network) -> None:
    """Raises `InvalidRequest` where this machine has a route to some of the addresses already."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination, _, _, _, _, _, mask = line.split()[:8]
        route = IPv4Network((_address(destination), _address(mask)))
        if route.prefixlen and route.overlaps(network):
            ours = next((lab.name for lab in all_records() if lab.alive and device == f"lab-{lab.name}"), None)
            owner = f"the lab {ours}" if ours else f"{device} has {route}"
            raise InvalidRequest(
                f"The addresses {network} are taken on this machine ({owner}); choose others with --network, such as "
                "10.99.0.0/24.",
                "network",
            )


def _address(hexadecimal: str) -> str:
    """As the kernel prints it: in the machine's order of bytes."""
    return ".".join(str(byte) for byte in int(hexadecimal, 16).to_bytes(4, sys.byteorder))


def _trouble(said: bytes, log: Path) -> Exception:
    try:
        words = msgspec.json.decode(said, type=dict[str, str])
        return from_code(words["code"], words["message"])
    except (msgspec.DecodeError, KeyError):
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        return MachineTrouble(f"The lab's keeper ended before the lab was up ({last or 'it said nothing'}); report it.")
