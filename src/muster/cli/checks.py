"""What `muster doctor` looks at, one small function per matter. Changes nothing on the machine; knows no terminal."""

import asyncio
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import httpx
import psutil
from packaging.requirements import Requirement

from muster.cli.findings import FAILED, OK, UNSURE, Finding
from muster.cli.options import format_bytes
from muster.cli.waiting import Say
from muster.errors import MusterError
from muster.head.data_directory import HeadRecord, read_head
from muster.link.base import Endpoint
from muster.wire.ticket import Ticket, parse

DISTRIBUTION = "muster-llm"
VITAL = ("torch", "transformers", "iroh", "safetensors", "msgspec")
LEAST_MEMORY, LEAST_DISK = 1_000_000_000, 2_000_000_000
MAX_SKEW_S = 5.0
REACH_S = 5.0


def look(folder: Path, port: int, ticket: str | None, head: str | None, say: Say) -> Iterator[Finding]:
    """Every finding, as soon as it is known, the quickest first. `say` is told what takes a while."""
    yield python_version()
    yield from package_versions()
    yield memory()
    yield disk(folder)
    yield port_free(port, read_head(folder))
    valid = None
    if ticket:
        valid, finding = ticket_valid(ticket, time.time())
        yield finding
    say("opening two QUIC endpoints, as machines of a pool do")
    yield asyncio.run(udp_loopback())
    if head:
        say(f"asking {head} what time it is")
        yield clock(head)
    if valid:
        say("dialling the head that the ticket names")
        yield asyncio.run(head_in_reach(valid))
    say("loading PyTorch, to see whether it finds a GPU")
    yield accelerator()


def python_version() -> Finding:
    """An older one could not have imported this file; the figure is for whoever reads the report."""
    return Finding("python", OK, ".".join(map(str, sys.version_info[:3])))


def package_versions() -> Iterator[Finding]:
    """Each vital package against the range that Muster was built for."""
    try:
        wanted = {r.name: r for r in map(Requirement, requires(DISTRIBUTION) or [])}
    except PackageNotFoundError:
        yield Finding("muster", UNSURE, "running from a folder, not installed", "pip install -e . in the clone")
        wanted = {}
    for name in VITAL:
        yield package_version(name, wanted.get(name))


def package_version(name: str, wanted: Requirement | None) -> Finding:
    fix = f"pip install '{wanted or name}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, FAILED, "not installed", fix)
    if wanted and not wanted.specifier.contains(found, prereleases=True):
        return Finding(name, FAILED, f"{found} is outside {wanted.specifier}", fix)
    return Finding(name, OK, found)


def accelerator() -> Finding:
    """torch is imported only here, and last: it takes seconds."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        memory = f"{format_bytes(free)} of {format_bytes(total)} free"
        return Finding("device", OK, f"{torch.cuda.get_device_name()}, {memory}")
    if torch.backends.mps.is_available():
        return Finding("device", OK, "Apple GPU (mps)")
    if shutil.which("nvidia-smi"):
        fix = "install a torch build for your CUDA version"
        return Finding("device", UNSURE, "an NVIDIA driver is here, but this torch does not see the GPU", fix)
    threads = torch.get_num_threads()
    return Finding("device", OK, f"CPU, {threads} thread{'' if threads == 1 else 's'}")


def memory() -> Finding:
    free = psutil.virtual_memory().available
    if free < LEAST_MEMORY:
        fix = "close other programs, or lend less with --memory"
        return Finding("memory", UNSURE, f"only {format_bytes(free)} free", fix)
    return Finding("memory", OK, f"{format_bytes(free)} free")


def disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK:
        fix = "free some space, or keep weights elsewhere with --data-dir"
        return Finding("disk", FAILED, f"only {format_bytes(free)} free for weights under {folder}", fix)
    return Finding("disk", OK, f"{format_bytes(free)} free under {folder}")


def port_free(port: int, ours: HeadRecord | None = None) -> Finding:
    if not 0 <= port <= 65535:
        return Finding("port", FAILED, f"{port} is not a port", "choose one from 1 to 65535")
    try:
        with socket.create_server(("127.0.0.1", port)):
            return Finding("port", OK, f"{port} is free")
    except OSError as error:
        if ours is not None and httpx.URL(ours.url).port == port:
            return Finding("port", OK, f"{port} is held by the head that runs here")
        fix = f"stop the program that holds it, or serve on another: muster serve MODEL --port {port + 1}"
        return Finding("port", UNSURE, f"{port} cannot be taken ({error.strerror})", fix)


async def udp_loopback() -> Finding:
    """Two endpoints of our own greet each other: the same sockets and the same encryption as between machines."""
    from muster.link.identity import Identity
    from muster.link.iroh import IrohEndpoint

    try:
        here, there = await IrohEndpoint.bind(Identity.generate()), await IrohEndpoint.bind(Identity.generate())
    except MusterError as error:
        return Finding("udp", FAILED, str(error), "allow this program to open UDP sockets")
    try:
        started = time.perf_counter()
        await asyncio.wait_for(_greet(here, there), REACH_S)
        return Finding("udp", OK, f"QUIC over loopback in {(time.perf_counter() - started) * 1000:.0f} ms")
    except (MusterError, TimeoutError):
        return Finding("udp", FAILED, "no QUIC over loopback", "let the firewall pass UDP for Python")
    finally:
        await here.close()
        await there.close()


async def _greet(here: Endpoint, there: Endpoint) -> None:
    dialled, _ = await asyncio.gather(here.dial(there.address), there.accept())
    await dialled.close()


def clock(head: str) -> Finding:
    """The head's clock, as its HTTP door tells it, against ours. Whole seconds."""
    try:
        answer = httpx.get(f"{head.rstrip('/')}/health", timeout=REACH_S)
        skew_s = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Finding("clock", FAILED, f"no answer from {head} ({error})", "check the address, and that the head runs")
    if abs(skew_s) > MAX_SKEW_S:
        fix = "set the clock, best by NTP (timedatectl set-ntp true)"
        return Finding("clock", FAILED, f"{skew_s:+.0f} s from the head's; tickets will seem expired or unborn", fix)
    return Finding("clock", OK, f"within {MAX_SKEW_S:.0f} s of the head's")


def ticket_valid(text: str, now_s: float) -> tuple[Ticket | None, Finding]:
    try:
        ticket = parse(text, now_s)
    except MusterError as error:
        problem, _, fix = str(error).partition("; ")
        return None, Finding("ticket", FAILED, problem, fix)
    hours = (ticket.expires_s - now_s) / 3600
    return ticket, Finding("ticket", OK, f"head {ticket.head[:10]}, good for {hours:.1f} h")


async def head_in_reach(ticket: Ticket) -> Finding:
    from muster.link.identity import Identity
    from muster.link.iroh import IrohEndpoint

    endpoint = await IrohEndpoint.bind(Identity.generate(), relay=ticket.relay)
    try:
        connection = await endpoint.dial(ticket.address, REACH_S)
        round_trip_s = connection.round_trip_s()
        return Finding("head", OK, "in reach" + (f", {round_trip_s * 1000:.1f} ms round trip" if round_trip_s else ""))
    except MusterError:
        where = ", ".join(ticket.addresses) or "a relay only"
        fix = "check that the head runs, that one of its addresses is reachable from here, and that UDP may pass"
        return Finding("head", FAILED, f"nobody answers at {where}", fix)
    finally:
        await endpoint.close()
