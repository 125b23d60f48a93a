"""`muster verify FILE`: whether receipts were signed by whom they say, fit together, and agree. Asks no pool."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.options import Json
from muster.cli.output import out, plain, show_json, show_table
from muster.cli.replay import DISPUTE, replay
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest, ProtocolViolation

if TYPE_CHECKING:
    from muster.node.audit.looking import NumbersFinding
    from muster.verify.receipt_file import ReceiptFile
    from muster.verify.receipts import BoundaryFinding

NOT_GOOD = 1
Model = Annotated[str | None, typer.Option("--model", help="The model, to check the numbers too; calibrated before.")]
Named = Annotated[Path, typer.Argument(help="A file that `muster receipts` wrote, or a transcript of a dispute.")]


def verify(file: Named, model: Model = None, as_json: Json = False) -> None:
    """Check a file of receipts: every signature, the order in which they follow each other, and that both ends of each
    boundary signed the same. With the model, also the numbers: all is computed again from the tokens, and the first
    boundary that is further off than rounding takes it names the machine. Exits with 1 where something is wrong.

    Of a dispute, the whole course is gone through again, and whoever lied is named.
    """
    from muster.verify.receipt_file import checked, read

    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"The file {file} cannot be read ({error.strerror}).", "file") from None
    if content.startswith(DISPUTE):
        replay(content, model, as_json)
        return
    parsed = read(content)
    findings: list[BoundaryFinding] = []
    fault = ""
    try:
        findings = checked(parsed).findings(parsed.tokens)
    except ProtocolViolation as error:
        fault = str(error)
    good = not fault and bool(findings) and not any(one.problem for one in findings)
    numbers = _numbers(parsed, model, as_json) if good and model is not None else []
    wrong = next((one for one in numbers if not one.verdict.passes), None)
    if as_json:
        shown = [asdict(one) for one in findings], [asdict(one) for one in numbers]
        show_json({"good": good and wrong is None, "fault": fault, "boundaries": shown[0], "numbers": shown[1]})
    else:
        _tell(parsed.request, findings, fault, good)
        _tell_numbers(numbers, wrong)
    good = good and wrong is None
    if not good:
        raise typer.Exit(NOT_GOOD)


def _numbers(parsed: "ReceiptFile", model: str, as_json: bool) -> "list[NumbersFinding]":
    with waiting("loading PyTorch", as_json) as say:
        import torch

        from muster.head.model import load_model
        from muster.model.weights import open_directory
        from muster.node.audit.kept import limits_for
        from muster.node.audit.looking import look
        from muster.node.audit.recomputing import boundaries, stages_of
        from muster.verify.receipt_file import checked

        found: list[NumbersFinding] = []
        tokens = parsed.tokens
        if tokens is None or not parsed.answer:
            raise InvalidRequest("The file holds no tokens, so nothing can be computed again.", "file")
        loaded = load_model(model)
        loaded.tokenizer.close()
        receipts, weights = checked(parsed), open_directory(loaded.path)
        for epoch, ring in sorted(receipts.rings.items()):
            if ring.manifest != loaded.manifest.digest or ring.cuts[-1] != loaded.shape.num_layers:
                raise InvalidRequest(
                    f"The receipts are of another model ({parsed.model}, manifest {ring.manifest[:12]}) than {model} "
                    f"(manifest {loaded.manifest.digest[:12]}).",
                    "model",
                )
            if not 0 <= min(tokens) <= max(tokens) < loaded.shape.vocab_size:
                raise InvalidRequest("The file has tokens that are none of this model.", "file")
            limits = limits_for(ring.manifest, ring.dtype, model)
            say(f"computing {len(tokens)} tokens again")
            truths = boundaries(stages_of(weights, ring.cuts, torch.float32), tokens, len(parsed.prompt) - 1)
            found += look(receipts, epoch, truths, limits, tokens, len(parsed.prompt), parsed.sampling)
        return found


def _tell_numbers(numbers: "list[NumbersFinding]", wrong: "NumbersFinding | None") -> None:
    from muster.link.base import short_id

    if not numbers:
        return
    rows = [
        [str(one.epoch), str(one.layer), short_id(one.sender), str(one.verdict.tokens), f"{one.verdict.drift:.2f}"]
        for one in numbers
    ]
    show_table("The numbers", ("epoch", "before layer", "computed by", "positions", "of the limit"), rows)
    if wrong is None:
        out.print(plain("All numbers are as near as rounding takes them."))
    else:
        faults = "; ".join(wrong.verdict.faults)
        out.print(plain(f"Node {short_id(wrong.sender)} did other work than it was to do: {faults}."))


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
