"""The generated part of docs/claims.md: of each claim what was published, what came out here, and the verdict."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.register import Claim, Found, Planned, fell, newest, planned, read_records, titles

WORDS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than", "==": "exactly"}
HEAD = ("| id | claim | published | here | verdict | run |", "|---|---|---|---|---|---|")


def page() -> str:
    """Of this repository."""
    return register(planned(), titles(), read_records())


def register(known: Mapping[str, Planned], topics: Mapping[str, str], found: Sequence[Found]) -> str:
    """How many claims hold, then a table for each topic."""
    last = newest(found)
    tried = [last[claim_id].claim for claim_id in known if claim_id in last]
    kept = sum(one.holds for one in tried)
    lines = [f"{kept} of {len(known)} hold, {len(tried) - kept} do not, {len(known) - len(tried)} are not yet run."]
    for topic, title in topics.items():
        lines += ["", f"## {title}", "", *HEAD]
        lines += [row(claim_id, known[claim_id], found) for claim_id in known if claim_id.split(".")[0] == topic]
    return "\n".join(lines)


def row(claim_id: str, claim: Planned, found: Sequence[Found]) -> str:
    last = newest(found).get(claim_id)
    if last is None:
        here, when = "", ""
    else:
        here, when = figure(last.claim), f"{last.claim.date[:10]}, {last.claim.machine}"
    says = f"{verdict(claim, last, found)} {claim.remark}".strip()
    cells = [f"`{claim_id}`", claim.text, claim.published, here, says, when]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def figure(claim: Claim) -> str:
    return f"{claim.value:,.6g} {claim.unit}"


def verdict(claim: Planned, last: Found | None, found: Sequence[Found]) -> str:
    """One sentence, as of the newest record of the claim."""
    if last is None:
        return f"Not yet run; the bar is {bar(claim.bar)}."
    if last.claim.bar != claim.bar:
        return f"Judged by an earlier bar, {bar(last.claim.bar)}; not yet run against {bar(claim.bar)}."
    if last.claim.holds:
        return f"Holds: the bar is {bar(claim.bar)}."
    word = "No longer holds" if fell(last, found) else "Does not hold"
    return f"{word}: the bar is {bar(claim.bar)}."


def bar(comparison: str) -> str:
    """In words."""
    sign, number = comparison.split()
    return f"{WORDS[sign]} {number}"
