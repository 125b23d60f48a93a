"""`muster verify FILE`: whether receipts were signed by whom they say, fit together, and agree. Asks no pool."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.options import Json
from muster.cli.output import out, plain, show_json, show_table
from muster.errors import InvalidRequest, ProtocolViolation

if TYPE_CHECKING:
    from muster.verify.receipts import BoundaryFinding

NOT_GOOD = 1
Named = Annotated[Path, typer.Argument(help="A file that `muster receipts` wrote.")]


def verify(file: Named, as_json: Json = False) -> None:
    """Check a file of receipts: every signature, the order in which they follow each other, and that both ends of each
    boundary signed the same. Exits with 1 where something is wrong, and says who may have lied.
    """
    from muster.verify.receipt_file import checked, read

    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"The file {file} cannot be read ({error.strerror}).", "file") from None
    parsed = read(content)
    findings: list[BoundaryFinding] = []
    fault = ""
    try:
        findings = checked(parsed).findings(parsed.tokens)
    except ProtocolViolation as error:
        fault = str(error)
    good = not fault and bool(findings) and not any(one.problem for one in findings)
    if as_json:
        show_json({"good": good, "fault": fault, "boundaries": [asdict(one) for one in findings]})
    else:
        _tell(parsed.request, findings, fault, good)
    if not good:
        raise typer.Exit(NOT_GOOD)


def _tell(request: str, findings: "list[BoundaryFinding]", fault: str, good: bool) -> None:
    if findings:
        columns = ("epoch", "before layer", "sent by", "received by", "positions", "signed by both", "found")
        show_table(f"Receipts of request {request}", columns, [_row(one) for one in findings])
    if fault:
        out.print(plain(fault))
    elif good:
        out.print(plain("Every signature is good, the receipts follow each other, and no two of them contradict."))
    elif not findings:
        out.print(plain("The file holds no receipts."))


def _row(one: "BoundaryFinding") -> list[Any]:
    from muster.link.base import short_id

    suspects = f" One of {', '.join(map(short_id, one.suspects))} lies." if one.suspects else ""
    return [
        str(one.epoch),
        str(one.layer),
        short_id(one.sender),
        short_id(one.receiver),
        f"{one.start}–{one.end}",
        str(one.both),
        (one.problem + suspects) or "good",
    ]
