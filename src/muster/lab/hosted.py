"""A head and its workers on the hosts of a wide-area lab: real packets between them instead of shaped links.

    with wide_area(scenario, ["head:tokyo", "ada:seoul"]) as record:
        async with HostedLab(folder, record) as lab:
            head = await lab.head("tiny", region="tokyo")
            await lab.worker(WorkerSpec("ada", "seoul", 64_000_000), ticket)

Several pools may stand in one lab, with their heads on one host.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from muster.lab.processes import Lab
from muster.lab.wan import lifecycle
from muster.lab.wan.hosts import exec_words
from muster.lab.wan.layout import DEFAULT_NETWORK
from muster.lab.wan.namespaces import enter_network
from muster.lab.wan.record import DEFAULT_NAME, LabRecord
from muster.spec.scenario import Scenario


class HostedLab(Lab):
    """`Lab`, whose children run on hosts of `record`: on the one of their own name, or as `host_of` says."""

    def __init__(
        self, folder: Path, record: LabRecord, host_of: Callable[[str], str] = lambda name: name, threads: int = 1
    ) -> None:
        super().__init__(folder, None, threads)
        self._record = record
        self._host_of = host_of

    def command(self, name: str) -> list[str]:
        return exec_words(self._record, self._record.host(self._host_of(name)), super().command(name))


@contextmanager
def wide_area(
    scenario: Scenario,
    hosts: Sequence[str],
    *,
    beside: str = "head",
    name: str = DEFAULT_NAME,
    network: str = DEFAULT_NETWORK,
) -> Iterator[LabRecord]:
    """A lab that is up for the block, and down after it. `hosts` as in `lay_out`; raises as `lifecycle.up`.

    Meanwhile this thread sits on the host `beside`, and reaches the doors there as anybody on that host does.
    """
    record = lifecycle.up(scenario, hosts, name=name, network=network)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter_network(record.namespace(record.host(beside)))
        yield record
    finally:
        enter_network(Path(f"/proc/self/fd/{home}"))
        os.close(home)
        lifecycle.down(name)
