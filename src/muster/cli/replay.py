"""A transcript of a dispute, gone through again: who lied, and in which operator."""

from dataclasses import asdict
from typing import Any

import typer

from muster.cli.output import out, plain, show_json
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest, ProtocolViolation

DISPUTE = b"muster dispute"
NOT_GOOD = 1
MAX_TOKENS = 65_536


def replay(content: bytes, model: str | None, as_json: bool) -> None:
    """Exits with 1 where the transcript was forged, cut or added to."""
    if model is None:
        raise InvalidRequest("A dispute is about a model's weights; name the model with --model.", "model")
    outcome, fault = None, ""
    with waiting("loading PyTorch", as_json) as say:
        from muster.verify.disputes.transcript import read_transcript, replayed

        entries = read_transcript(content)
        try:
            say("computing the operator again")
            outcome = replayed(entries, _referee(entries, model))
        except ProtocolViolation as error:
            fault = str(error)
    if as_json:
        show_json({"fault": fault, "outcome": None if outcome is None else asdict(outcome)})
    elif outcome is None:
        out.print(plain(fault))
    else:
        who = f"The {' and the '.join(outcome.liars)} lied" if outcome.liars else "Nobody lied"
        out.print(plain(f"{who}: {outcome.reason} ({outcome.rounds} rounds)."))
    if outcome is None:
        raise typer.Exit(NOT_GOOD)


def _referee(entries: Any, model: str) -> Any:
    """With a trace of the same layers on as many positions. Raises `MusterError`."""
    import torch

    from muster.head.model import load_model
    from muster.model.stage import build_stage
    from muster.model.weights import open_directory
    from muster.verify.disputes.sides import TracedReferee
    from muster.verify.disputes.statements import DisputeOpening, opened
    from muster.verify.disputes.tensors import DTYPES
    from muster.verify.disputes.trace import trace

    said = opened(entries[0]).said
    if not isinstance(said, DisputeOpening):
        raise ProtocolViolation("A dispute begins with something else than its opening; the start is missing.")
    loaded = load_model(model)
    loaded.tokenizer.close()
    layers = loaded.shape.num_layers
    if said.manifest != loaded.manifest.digest or not 0 <= said.first < said.last <= layers or said.dtype not in DTYPES:
        raise InvalidRequest(f"The dispute is about another model than {model}.", "model")
    shape = tuple(entries[1].tensors[0].shape) if len(entries) > 1 and entries[1].tensors else ()
    count = int(shape[-2]) if len(shape) > 1 else 0
    if not 0 < count <= MAX_TOKENS:
        raise ProtocolViolation("The accused's pledge has no output; the transcript was cut.")
    weights, dtype = open_directory(loaded.path), DTYPES[said.dtype]
    stage = build_stage(weights, said.first, said.last, dtype, torch.device("cpu"), plain=True)
    x = torch.zeros(count, dtype=torch.int64) if stage.is_first else torch.zeros(count, stage.hidden_size, dtype=dtype)
    return TracedReferee(trace(stage, x), None, said.limit)
