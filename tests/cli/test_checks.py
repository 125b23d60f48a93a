"""The doctor: each problem has a name and a fix, and a healthy machine has none."""

import socket
import time
from pathlib import Path

import anyio
import httpx
import psutil
import pytest
from packaging.requirements import Requirement

from muster.cli import checks
from muster.cli.checks import FAILED, OK, UNSURE, Finding
from muster.head.data_directory import HeadRecord
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.wire.ticket import Ticket


def test_a_package_outside_its_range_names_the_command_that_mends_it() -> None:
    assert checks.package_version("msgspec", Requirement("msgspec>=0.19")).state == OK
    old = checks.package_version("msgspec", Requirement("msgspec>=900"))
    assert (old.state, old.fix) == (FAILED, "pip install 'msgspec>=900'")
    missing = checks.package_version("no-such-package", None)
    assert (missing.state, missing.detail) == (FAILED, "not installed")


def test_a_taken_port_is_named_with_the_next_one_to_try() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        taken = checks.port_free(port)
        assert taken.state == UNSURE
        assert f"--port {port + 1}" in taken.fix
        ours = HeadRecord(f"http://127.0.0.1:{port}", "tiny", "muster1abc", 1)
        assert checks.port_free(port, ours).state == OK
    assert checks.port_free(99_999).state == FAILED


def test_little_memory_and_little_disk_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.memory().state == OK
    assert checks.disk(tmp_path).name == "disk"
    monkeypatch.setattr(checks, "LEAST_MEMORY", psutil.virtual_memory().total * 2)
    monkeypatch.setattr(checks, "LEAST_DISK", 2**80)
    assert "--memory" in checks.memory().fix
    assert (checks.disk(tmp_path).state, "--data-dir" in checks.disk(tmp_path).fix) == (FAILED, True)


def test_two_endpoints_on_this_machine_reach_each_other() -> None:
    assert anyio.run(checks.udp_loopback).state == OK


def test_a_wrong_clock_is_told_from_a_head_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(date: str) -> object:
        return lambda url, timeout: httpx.Response(200, headers={"date": date})

    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    monkeypatch.setattr(httpx, "get", answer(now))
    assert checks.clock("http://head").state == OK
    monkeypatch.setattr(httpx, "get", answer("Mon, 01 Jan 2024 00:00:00 GMT"))
    assert "NTP" in checks.clock("http://head").fix
    monkeypatch.setattr(httpx, "get", answer("yesterday"))
    assert "head runs" in checks.clock("http://head").fix


def ticket(expires_in_s: float, address: str = "127.0.0.1:9", head: str | None = None) -> Ticket:
    return Ticket(head or Identity.generate().node_id, (address,), b"s" * 32, time.time() + expires_in_s)


def test_a_ticket_is_called_good_expired_or_mangled() -> None:
    text = ticket(3600).encode()
    good, finding = checks.ticket_valid(text, time.time())
    assert good is not None
    assert finding.state == OK
    for broken, word in ((text[:-3], "mangled"), ("hello", "not a Muster ticket"), (ticket(-5).encode(), "expired")):
        nothing, finding = checks.ticket_valid(broken, time.time())
        assert nothing is None
        assert (finding.state, word in finding.detail, bool(finding.fix)) == (FAILED, True, True)


def test_a_head_is_in_reach_or_its_addresses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "REACH_S", 1.0)

    async def scene() -> tuple[Finding, Finding]:
        head = await IrohEndpoint.bind(Identity.generate())
        address = head.address.direct[0]
        try:
            near = await checks.head_in_reach(ticket(60, address, head.node_id))
        finally:
            await head.close()
        return near, await checks.head_in_reach(ticket(60, "127.0.0.1:9"))

    near, away = anyio.run(scene)
    assert near.state == OK
    assert (away.state, "127.0.0.1:9" in away.detail) == (FAILED, True)


def test_a_whole_look_names_every_matter_once(tmp_path: Path) -> None:
    said: list[str] = []
    names = [finding.name for finding in checks.look(tmp_path, 0, None, None, said.append)]
    assert len(said) == 2, "QUIC and PyTorch take a while, so it is said what they are for"
    assert names[-1] == "device", "the slowest comes last"
    assert {"python", "torch", "iroh", "device", "memory", "disk", "port", "udp"} <= set(names)
    assert len(names) == len(set(names))
