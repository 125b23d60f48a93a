"""The register of claims: what is claimed, under which bar, and what each run of a benchmark found.

`benchmarks/claims/TOPIC.toml` says of each claim `TOPIC.n` (or `TOPIC.n.part`, where one claim has several figures) in
words what is claimed, what others published and where, the bar, the unit, and the command that tries it. A claim is
written down there before it is tried. A benchmark hands its figures to `claims`, and keeps what comes back under the
key `claims` of its JSON record, beside the raw data. `holds` follows from figure and bar; nobody types it.

Knows no benchmark. `tools/claims.py` prints the register and tries a claim again; `docs/claims.md` is made from it.
"""

import json
import operator
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
PLANNED = Path(__file__).parent / "claims"
RESULTS = Path(__file__).parent / "results"
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}
BAR = r"(<=|>=|==|<|>) (-?\d+(?:\.\d+)?)"
ID = r"[a-z]+\.\d+(\.[a-z0-9-]+)?"


class Malformed(Exception):
    """A record or a list of claims that does not say what it must."""


class Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim as it was written down before it was tried."""

    text: str
    bar: str
    unit: str
    command: str
    """Tries the claim in a few minutes; `{json}` stands for the file in which the record goes."""
    published: str = ""
    """What others published, and where; empty if the claim is ours alone."""
    full: str = ""
    """The whole of it, where `command` tries only a part."""
    remark: str = ""
    """What a reader must know beside the figure: what it rests on, why it is missed."""


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one run found, as it stands in a record."""

    id: str
    text: str
    published: str
    bar: str
    value: float
    unit: str
    holds: bool
    command: str
    date: str
    machine: str


@dataclass(frozen=True)
class Found:
    """A claim and the record that it stands in."""

    claim: Claim
    record: str


def planned(folder: Path = PLANNED) -> dict[str, Planned]:
    """All claims by id, in the order of their files and lines."""
    found = {}
    for path in sorted(folder.glob("*.toml")):
        for claim_id, table in _tables(path):
            where = f"{path.name}: {claim_id}"
            if not re.fullmatch(ID, claim_id):
                raise Malformed(f"{where} is no id; write topic.n or topic.n.part.")
            found[claim_id] = _read(table, Planned, where)
            _kept(0.0, found[claim_id].bar, where)
    return found


def titles(folder: Path = PLANNED) -> dict[str, str]:
    """Of the topics, in the order of their files."""
    return {path.stem: str(_toml(path).get("title", path.stem)) for path in sorted(folder.glob("*.toml"))}


def _tables(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is said of each claim. A claim with parts is each of its parts, with what is said of all of them."""
    for number, table in _toml(path).items():
        if number != "title":
            parts = {name: part for name, part in table.items() if isinstance(part, dict)}
            shared = {name: value for name, value in table.items() if name not in parts}
            if not parts:
                yield f"{path.stem}.{number}", shared
            for name, part in parts.items():
                yield f"{path.stem}.{number}.{name}", shared | part


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise Malformed(f"{path.name}: {error}.") from error


def holds(value: float, bar: str) -> bool:
    """Whether the figure keeps the bar, which is a comparison such as `<= 0.25`."""
    parts = re.fullmatch(BAR, bar)
    if parts is None:
        raise Malformed(f"{bar!r} is no bar; write a comparison with a number, such as '<= 0.25'.")
    return COMPARISONS[parts[1]](value, float(parts[2]))


def claims(
    values: Mapping[str, float],
    machine: str,
    date: str | None = None,
    command: str | None = None,
    known: Mapping[str, Planned] | None = None,
) -> list[dict[str, Any]]:
    """What a benchmark keeps under `claims`, from its figures by id. `date` and `command` are of this run."""
    known = planned() if known is None else known
    if strangers := sorted(set(values) - set(known)):
        raise Malformed(f"{', '.join(strangers)}: not in benchmarks/claims; write the claim down there first.")
    return [
        msgspec.to_builtins(
            Claim(
                id=claim_id,
                text=known[claim_id].text,
                published=known[claim_id].published,
                bar=known[claim_id].bar,
                value=value,
                unit=known[claim_id].unit,
                holds=holds(value, known[claim_id].bar),
                command=command or this_command(),
                date=date or datetime.now(UTC).isoformat(timespec="seconds"),
                machine=machine,
            )
        )
        for claim_id, value in values.items()
    ]


def this_command() -> str:
    """As it was typed, with paths from the root of the repository; of others, only the name of the file."""
    inside = [word.replace(f"{ROOT}/", "") for word in sys.argv]
    words = [Path(word).name if Path(word).is_absolute() else word for word in inside]
    return shlex.join(["python", *words])


def read_records(folder: Path = RESULTS) -> list[Found]:
    """All claims of all records. Names the record and the claim that are malformed."""
    return [one for path in sorted(folder.glob("*.json")) for one in read_record(path)]


def read_record(path: Path) -> list[Found]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Malformed(f"{path.name}: {error}.") from error
    listed = record.get("claims", []) if isinstance(record, dict) else []
    if not isinstance(listed, list):
        raise Malformed(f"{path.name}: `claims` is no list.")
    return [Found(_checked(one, f"{path.name}: claim {number}"), path.name) for number, one in enumerate(listed, 1)]


def _checked(one: Any, where: str) -> Claim:
    claim = _read(one, Claim, where)
    where = f"{where}, {claim.id}"
    if not re.fullmatch(ID, claim.id):
        raise Malformed(f"{where}: this is no id; write topic.n or topic.n.part.")
    try:
        _instant(claim.date)
    except ValueError as error:
        raise Malformed(f"{where}: {error}.") from error
    if claim.holds != (kept := _kept(claim.value, claim.bar, where)):
        raise Malformed(f"{where}: says holds = {claim.holds}, but {claim.value:g} against {claim.bar} is {kept}.")
    return claim


def _kept(value: float, bar: str, where: str) -> bool:
    try:
        return holds(value, bar)
    except Malformed as error:
        raise Malformed(f"{where}: {error}") from error


def _read(raw: Any, kind: type[Any], where: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise Malformed(f"{where}: {error}.") from error


def newest(found: Iterable[Found]) -> dict[str, Found]:
    """Of each id the record with the latest date."""
    ordered = sorted(found, key=lambda one: (_instant(one.claim.date), one.record))
    return {one.claim.id: one for one in ordered}


def lapsed(found: Sequence[Found]) -> list[Found]:
    """Newest records that do not hold although an earlier one of the same claim did."""
    return [last for last in newest(found).values() if fell(last, found)]


def fell(one: Found, earlier: Iterable[Found]) -> bool:
    """Whether it does not hold although an earlier one of the same claim did."""
    return not one.claim.holds and any(each.claim.holds for each in earlier if each.claim.id == one.claim.id)


def _instant(date: str) -> datetime:
    """A day without an hour is its beginning."""
    instant = datetime.fromisoformat(date)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
