"""Children of a `Lab` on the hosts of a wide-area lab, and this process beside the head."""

import os
from pathlib import Path

import anyio

from muster.lab.hosted import HostedLab, wide_area
from muster.lab.wan.record import read_record
from muster.spec.scenario import parse_scenario
from tests.lab.wan.conftest import NETWORK


def test_children_run_on_their_hosts_and_this_thread_comes_home(tmp_path: Path, place: tuple[str, str]) -> None:
    name, network = place
    own = os.stat("/proc/thread-self/ns/net").st_ino

    async def scene() -> int | None:
        hosts = ["head:north", "ada:south"]
        with wide_area(parse_scenario(NETWORK), hosts, name=name, network=network) as record:
            assert os.stat("/proc/thread-self/ns/net").st_ino == record.host("head").inode
            async with HostedLab(tmp_path, record, host_of=lambda child: "ada") as lab:
                child = await lab.start("worker", ["status", "--head", "http://127.0.0.1:9"])
                said = await child.wait_for("an error", lambda event: "error" in event, 60)
                assert said["error"]["code"] == "link_down"
                return await child.process.wait()

    assert anyio.run(scene) == 5
    assert os.stat("/proc/thread-self/ns/net").st_ino == own
    assert read_record(name) is None
