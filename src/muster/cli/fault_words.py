"""Faults as people write them, and requests as somebody recorded them. Knows no simulator's inside.

leave:ada@12          ada is gone from second 12
join:ada@40           and back
slow:bob@5x0.3        from second 5 bob computes at 0.3 of its speed
cut:ada,bob@10-20     nothing passes between the two from second 10 to 20 (without -20: never again)
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from muster.cli.plan_inputs import read_text
from muster.cli.question import find_node
from muster.errors import InvalidRequest
from muster.sim.arrivals import Arrival, trace
from muster.sim.faults import CutLink, Fault, Join, Leave, Slow
from muster.spec.pool import Pool

_SECONDS = r"\d+(?:\.\d+)?"
_FORMS = {
    "leave": re.compile(rf"(?P<node>.+)@(?P<at>{_SECONDS})"),
    "join": re.compile(rf"(?P<node>.+)@(?P<at>{_SECONDS})"),
    "slow": re.compile(rf"(?P<node>.+)@(?P<at>{_SECONDS})x(?P<factor>{_SECONDS})"),
    "cut": re.compile(rf"(?P<node>[^,]+),(?P<other>.+)@(?P<at>{_SECONDS})(?:-(?P<until>{_SECONDS}))?"),
}
_EXAMPLES = "leave:ada@12, join:ada@40, slow:bob@5x0.3 (of its speed) or cut:ada,bob@10-20"


def read_faults(words: Sequence[str], pool: Pool) -> tuple[Fault, ...]:
    """Raises `InvalidRequest` on words that are none of the four forms, and on machines that the pool lacks."""
    return tuple(_read_fault(word, pool) for word in words)


def _read_fault(word: str, pool: Pool) -> Fault:
    kind, _, rest = word.partition(":")
    match = _FORMS[kind].fullmatch(rest) if kind in _FORMS else None
    if match is None:
        raise InvalidRequest(f"--fault {word} cannot be read; write it like {_EXAMPLES}.", "fault")
    said = match.groupdict()
    node, at_s = find_node(said["node"], pool, "--fault"), float(said["at"])
    if kind == "slow":
        return Slow(node, at_s, float(said["factor"]))
    if kind == "cut":
        other = find_node(said["other"], pool, "--fault")
        return CutLink(node, other, at_s, float(said["until"])) if said["until"] else CutLink(node, other, at_s)
    return Leave(node, at_s) if kind == "leave" else Join(node, at_s)


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """Lines of `seconds,prompt tokens,output tokens`; a first line of words is skipped. Raises `InvalidRequest`."""
    rows = [row for row in csv.reader(read_text(path, "trace").splitlines()) if row]
    if rows and not re.search(r"\d", "".join(rows[0])):
        rows = rows[1:]
    if not rows:
        raise InvalidRequest(f"{path} holds no request; write lines of seconds,prompt tokens,output tokens.", "trace")
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or not _numbers(row):
            line = ",".join(row)[:60]
            raise InvalidRequest(
                f"Request {number} of {path} is {line!r}; write seconds,prompt tokens,output tokens.", "trace"
            )
    return trace((float(at_s), int(prompt), int(output)) for at_s, prompt, output in rows)


def _numbers(row: Sequence[str]) -> bool:
    kinds = (r"\s*\d+(\.\d+)?\s*", r"\s*\d+\s*", r"\s*\d+\s*")
    return all(re.fullmatch(kind, cell) for kind, cell in zip(kinds, row, strict=False))
