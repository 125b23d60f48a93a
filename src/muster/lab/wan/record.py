"""What is kept of a lab that is up, so that other commands find it: one folder with a record. Knows no sockets."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from muster.errors import InvalidRequest, MachineTrouble, PoolUnavailable
from muster.lab.wan.programs import started_at
from muster.spec.written import suggest

FOLDER = Path("/var/lib/muster-lab")
"""Only root writes there, and it survives nothing that matters: a record of a dead lab is swept away by the next."""
DEFAULT_NAME = "lab"
_NAME = re.compile(r"[a-z0-9]{1,10}")


class HostRecord(msgspec.Struct, frozen=True):
    name: str
    region: str
    address: str
    descriptor: int
    """Of its namespace, in the keeper."""
    inode: int
    """Of its namespace."""


class LabRecord(msgspec.Struct, frozen=True):
    name: str
    scenario: str
    network: str
    seat: str
    """The address of this machine itself."""
    keeper: int
    """The process that holds the namespaces and routes."""
    keeper_started: str
    hosts: tuple[HostRecord, ...]

    @property
    def alive(self) -> bool:
        return started_at(self.keeper) == self.keeper_started

    def host(self, name: str) -> HostRecord:
        """Raises `InvalidRequest` that names the hosts there are."""
        found = next((host for host in self.hosts if host.name == name), None)
        if found is None:
            known = suggest(name, [host.name for host in self.hosts])
            raise InvalidRequest(f"No host of the lab is called {name!r}; {known}", "host")
        return found

    def namespace(self, host: HostRecord) -> Path:
        return Path(f"/proc/{self.keeper}/fd/{host.descriptor}")


def folder_of(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name for a lab; use at most ten small letters and digits.", "name")
    return FOLDER / name


def read_record(name: str) -> LabRecord | None:
    """Of a lab that is up or that died; None where there is none."""
    try:
        return msgspec.json.decode(folder_of(name).joinpath("lab.json").read_bytes(), type=LabRecord)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise MachineTrouble("The lab belongs to root; run it with sudo.") from None
    except msgspec.DecodeError:
        raise MachineTrouble(f"{folder_of(name)} holds no record of a lab; remove that folder.") from None


def running(name: str) -> LabRecord:
    """Raises `PoolUnavailable` where no lab of this name is up."""
    record = read_record(name)
    if record is None or not record.alive:
        others = [other.name for other in all_records() if other.alive]
        remedy = f"say --name {others[0]}, which is up" if others else "start one with `muster lab up SCENARIO`"
        raise PoolUnavailable(f"No lab called {name} is up; {remedy}.")
    return record


def all_records() -> Iterator[LabRecord]:
    try:
        names = sorted(os.listdir(FOLDER))
    except OSError:
        return
    for name in names:
        if _NAME.fullmatch(name) and (record := read_record(name)) is not None:
            yield record


def write_record(record: LabRecord) -> None:
    """Whole or not at all."""
    folder = folder_of(record.name)
    written = folder / "lab.json.new"
    written.write_bytes(msgspec.json.encode(record))
    written.replace(folder / "lab.json")


def make_folder(name: str) -> Path:
    folder = folder_of(name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise MachineTrouble(f"{folder} cannot be made ({error.strerror}); free that path.") from None
    return folder


def remove_folder(name: str) -> None:
    shutil.rmtree(folder_of(name), ignore_errors=True)
