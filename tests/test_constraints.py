"""The set-up gives everybody the same versions: whatever is installed for Muster is pinned, as the pin says."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
LOCK = CONSTRAINTS.with_name("requirements.lock")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, SpecifierSet]:
    lines = (line.split("#")[0].strip() for line in CONSTRAINTS.read_text("utf-8").splitlines())
    return {canonical(pin.name): pin.specifier for pin in map(Requirement, filter(None, lines))}


def needed() -> dict[str, str]:
    """Name -> version of everything that `pip install -e .[dev]` brings."""
    found: dict[str, str] = {}
    waiting = [("muster-llm", frozenset({"dev"}))]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # for another platform, or asked for by an extra that we do not take
            continue
        found[canonical(name)] = installed.version
        for requirement in map(Requirement, installed.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    found.pop("muster-llm")
    return found


def test_every_installed_version_is_the_pinned_one() -> None:
    pinned = pins()
    versions = needed()
    assert len(versions) > 50, "the walk through the requirements found too little"
    assert sorted(set(versions) - set(pinned)) == [], "pin these, too"
    differs = {name: version for name, version in versions.items() if version not in pinned[name]}
    assert differs == {}, "install what constraints.txt says, or change it"


def locked() -> dict[str, tuple[SpecifierSet, list[str]]]:
    """Name -> version and hashes, as `pip install --require-hashes` reads them."""
    text = LOCK.read_text("utf-8").replace("\\\n", " ")
    lines = [line.split("--hash=") for line in text.splitlines() if line and not line.startswith("#")]
    entries = [(Requirement(first), [digest.strip() for digest in digests]) for first, *digests in lines]
    return {canonical(entry.name): (entry.specifier, digests) for entry, digests in entries}


def test_the_lock_file_names_the_versions_of_the_constraints_and_their_hashes() -> None:
    lock, pinned = locked(), pins()
    assert sorted(set(needed()) - set(lock)) == [], "run `make lock`"
    differs = {name: str(lock[name][0]) for name in set(lock) & set(pinned) if lock[name][0] != pinned[name]}
    assert differs == {}, "run `make lock`"
    assert {"hatchling", "editables"} <= set(lock), "without them Muster itself cannot be built from what is locked"
    assert all(digests for _, digests in lock.values())
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for _, digests in lock.values() for digest in digests)


def test_no_file_of_the_set_up_names_a_host() -> None:
    assert [file.name for file in (CONSTRAINTS, LOCK) if "://" in file.read_text("utf-8")] == []


def test_every_pin_names_one_version() -> None:
    assert [name for name, pin in pins().items() if not re.fullmatch(r"==[\w.]+", str(pin))] == []
