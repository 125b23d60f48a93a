"""Faults as people write them, and requests as somebody recorded them. Knows no simulator's inside.

leave:ada@12          ada is gone from second 12
join:ada@40           and back
slow:bob@5x0.3        from second 5 bob computes at 0.3 of its speed
cut:ada,bob@10-20     nothing passes between the two from second 10 to 20 (without -20: never again)

In a lab also, and there without @ at once:

freeze:ada@12-20      everything on ada stands still from second 12 to 20
slow:ada,bob@5x0.1    from second 5 a tenth of the bandwidth passes between the two
heal:ada,bob@30       the link between the two is as ever; heal:ada likewise of a machine
kill:ada@12           another word for leave
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from muster.cli.plan_inputs import read_text
from muster.cli.planning import find_node
from muster.errors import InvalidRequest
from muster.sim.serve.arrivals import Arrival, trace
from muster.spec.faults import CutLink, Fault, Freeze, Heal, Join, LabFault, Leave, Slow, SlowLink
from muster.spec.pool import NodeId, Pool

_SECONDS = r"\d+(?:\.\d+)?"
_FORMS = {
    "leave": re.compile(rf"(?P<node>.+)@(?P<at>{_SECONDS})"),
    "join": re.compile(rf"(?P<node>.+)@(?P<at>{_SECONDS})"),
    "slow": re.compile(rf"(?P<node>.+)@(?P<at>{_SECONDS})x(?P<factor>{_SECONDS})"),
    "cut": re.compile(rf"(?P<node>[^,]+),(?P<other>.+)@(?P<at>{_SECONDS})(?:-(?P<until>{_SECONDS}))?"),
}
_REQUEST = re.compile(r"\s*(\d{1,9}(?:\.\d{1,12})?)\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*")
MAX_REQUESTS = 100_000
"""Of one run: all of them are in memory at once."""
_EXAMPLES = "leave:ada@12, join:ada@40, slow:bob@5x0.3 (of its speed) or cut:ada,bob@10-20"


def read_faults(words: Sequence[str], pool: Pool) -> tuple[Fault[NodeId], ...]:
    """Raises `InvalidRequest` on words that are none of the four forms, and on machines that the pool lacks."""
    return tuple(_read_fault(word, pool) for word in words)


def _read_fault(word: str, pool: Pool) -> Fault[NodeId]:
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
        if other == node:
            raise InvalidRequest(f"--fault {word} cuts a machine from itself; name two machines.", "fault")
        return CutLink(node, other, at_s, float(said["until"])) if said["until"] else CutLink(node, other, at_s)
    return Leave(node, at_s) if kind == "leave" else Join(node, at_s)


_LAB_FORM = re.compile(
    rf"(?P<kind>leave|kill|join|freeze|slow|cut|heal):(?P<node>[^,@]+)(?:,(?P<other>[^,@]+))?"
    rf"(?:@(?P<at>{_SECONDS})(?:-(?P<until>{_SECONDS}))?)?(?:x(?P<factor>{_SECONDS}))?"
)
_LAB_EXAMPLES = "leave:ada, join:ada@40, freeze:bob@12-20, slow:bob@5x0.3, cut:ada,bob@10-20 or heal:ada,bob"


def read_lab_faults(words: Sequence[str], find: Callable[[str], str]) -> tuple[LabFault[str], ...]:
    """`find` gives a host's name or raises. Raises `InvalidRequest` on words that are none of the forms."""
    return tuple(_read_lab_fault(word, find) for word in words)


def _read_lab_fault(word: str, find: Callable[[str], str]) -> LabFault[str]:
    match = _LAB_FORM.fullmatch(word)
    if match is None:
        raise _not_a_fault(word)
    kind, node, at_s = match["kind"], find(match["node"]), float(match["at"] or 0)
    other = find(match["other"]) if match["other"] else None
    until_s = float(match["until"]) if match["until"] else None
    factor = float(match["factor"]) if match["factor"] else None
    if other == node:
        raise InvalidRequest(f"The fault {word} names one machine twice; name two machines.", "fault")
    if until_s is not None and until_s <= at_s:
        raise InvalidRequest(f"The fault {word} ends before it begins; write the later time last.", "fault")
    if factor is not None and not 0.01 <= factor <= 1:
        raise InvalidRequest(f"The fault {word} slows to a share that is none; write one from 0.01 to 1.", "fault")
    match kind, other, until_s, factor:
        case "leave" | "kill", None, None, None:
            return Leave(node, at_s)
        case "join", None, None, None:
            return Join(node, at_s)
        case "freeze", None, _, None:
            return Freeze(node, at_s) if until_s is None else Freeze(node, at_s, until_s)
        case "slow", None, None, float():
            return Slow(node, at_s, factor)
        case "slow", str(), None, float():
            return SlowLink(node, other, at_s, factor)
        case "cut", str(), _, None:
            return CutLink(node, other, at_s) if until_s is None else CutLink(node, other, at_s, until_s)
        case "heal", _, None, None:
            return Heal(node, at_s, other)
    raise _not_a_fault(word)


def _not_a_fault(word: str) -> InvalidRequest:
    return InvalidRequest(f"The fault {word} cannot be read; write it like {_LAB_EXAMPLES}.", "fault")


def read_fault_file(path: Path) -> list[str]:
    """Words, one a line; what follows a # is for people. Raises `InvalidRequest`."""
    lines = (line.partition("#")[0].strip() for line in read_text(path, "file").splitlines())
    return [line for line in lines if line]


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """Lines of `seconds,prompt tokens,output tokens`; a first line of words is skipped. Raises `InvalidRequest`."""
    lines = [line for line in read_text(path, "trace").splitlines() if line.strip()]
    if lines and not re.search(r"\d", lines[0]):
        lines = lines[1:]
    if not lines:
        raise InvalidRequest(f"{path} holds no request; write lines of seconds,prompt tokens,output tokens.", "trace")
    if len(lines) > MAX_REQUESTS:
        raise InvalidRequest(
            f"{path} holds {len(lines):,} requests, and one run simulates at most {MAX_REQUESTS:,}; take a part of it.",
            "trace",
        )
    return trace(_request(path, number, line) for number, line in enumerate(lines, start=1))


def _request(path: Path, number: int, line: str) -> tuple[float, int, int]:
    match = _REQUEST.fullmatch(line)
    if match is None:
        reason = f"Request {number} of {path} is {line[:60]!r}"
        raise InvalidRequest(f"{reason}; write seconds,prompt tokens,output tokens in plain digits.", "trace")
    return float(match[1]), int(match[2]), int(match[3])
