"""What runs on a host of a lab: commands, and what befalls them. Knows no router but by asking the keeper."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from muster.errors import InvalidRequest
from muster.lab.wan.lifecycle import MARK
from muster.lab.wan.namespaces import enter
from muster.lab.wan.programs import Program, kill_all, processes, remember, send, start
from muster.lab.wan.record import HostRecord, LabRecord, folder_of

OWN_HOSTS = Path("/etc/hosts")


def environment(record: LabRecord, host: HostRecord, outer: Mapping[str, str]) -> dict[str, str]:
    """Of a program on a host. Muster's own keep what they keep in a folder of that host's, unless told otherwise."""
    own = {MARK: record.name, "MUSTER_LAB_HOST": host.name, "MUSTER_LAB_ADDRESS": host.address}
    return {"MUSTER_DATA_DIR": str(data_folder(record, host)), **outer, **own}


def data_folder(record: LabRecord, host: HostRecord) -> Path:
    return folder_of(record.name) / "data" / host.name


def settle(record: LabRecord, host: HostRecord) -> None:
    """Move this process, and what it starts, onto the host: its network, its name, and the names of the others."""
    enter(record.namespace(host), hosts_file(record), host.name)


def hosts_file(record: LabRecord) -> Path:
    """This machine's own with the names of the lab."""
    file = folder_of(record.name) / "hosts"
    if not file.exists():
        own = OWN_HOSTS.read_text(errors="replace") if OWN_HOSTS.exists() else ""
        written = file.with_suffix(f".{os.getpid()}")
        written.write_text(own.rstrip("\n") + "".join(f"\n{host.address} {host.name}" for host in record.hosts) + "\n")
        written.replace(file)
    return file


def run_here(record: LabRecord, host: HostRecord, words: Sequence[str]) -> None:
    """Become the program `words` on the host; does not return. Raises `InvalidRequest` where there is none."""
    if not words:
        raise InvalidRequest("Nothing is to be run; write the command after --, as in `exec tokyo -- ip addr`.")
    found = shutil.which(words[0])
    if found is None:
        raise InvalidRequest(
            f"There is no command {words[0]!r} on this machine; install it, or give the path of a program that may be "
            "executed."
        )
    settle(record, host)
    os.execve(found, list(words), environment(record, host, os.environ))


def exec_words(record: LabRecord, host: HostRecord, words: Sequence[str]) -> list[str]:
    """The command that runs `words` on the host, for whoever starts processes."""
    return [sys.executable, "-m", "muster.cli.main", "lab", "exec", "--name", record.name, host.name, "--", *words]


def leave(record: LabRecord, host: HostRecord) -> int:
    """Kill all that runs there, and remember it for `join`; how many processes there were."""
    programs = remember(host.inode)
    _memory(record, host).write_bytes(msgspec.json.encode(programs))
    return kill_all(partial(processes, host.inode))


def join(record: LabRecord, host: HostRecord) -> list[subprocess.Popen[bytes]]:
    """Start again what `leave` killed."""
    memory = _memory(record, host)
    if not memory.exists():
        return []
    programs = msgspec.json.decode(memory.read_bytes(), type=list[Program])
    memory.unlink()
    return [start(program, partial(settle, record, host)) for program in programs]


def freeze(host: HostRecord) -> int:
    """Stop all that runs there where it stands; how many processes."""
    return _signal(host, signal.SIGSTOP)


def thaw(host: HostRecord) -> int:
    return _signal(host, signal.SIGCONT)


def _signal(host: HostRecord, number: signal.Signals) -> int:
    found = processes(host.inode)
    send(found, number)
    return len(found)


def _memory(record: LabRecord, host: HostRecord) -> Path:
    return folder_of(record.name) / f"killed-{host.name}.json"
