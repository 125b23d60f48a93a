"""Disputes over real passes: whoever lies loses, the operator is named, and a transcript leads to the same end."""

from math import ceil, log2
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import torch

from muster.cli.main import run_command
from muster.errors import InvalidRequest, MusterError, ProtocolViolation
from muster.head.model import load_model
from muster.link.identity import Identity
from muster.model.stage import build_stage
from muster.model.weights import open_directory
from muster.verify.disputes.execute import Values, run_operator
from muster.verify.disputes.game import Game, Stated
from muster.verify.disputes.outcome import DisputeOutcome
from muster.verify.disputes.program import TracedProgram
from muster.verify.disputes.sides import DisputeSide, TracedReferee, apart, packed
from muster.verify.disputes.statements import NOTHING_BEFORE, Body, DisputeOpening, SignedBody, TensorBytes, sign
from muster.verify.disputes.tensors import digest
from muster.verify.disputes.trace import Traced, trace
from muster.verify.disputes.transcript import read_transcript, replayed, transcript
from tests.model.families import LAYERS
from tests.verify.disputes.stages import traced

JUDGE, ACCUSED, ACCUSER = (Identity.from_secret(bytes([number]) * 32) for number in (7, 8, 9))
DISPUTE = bytes(32)


def with_fault(one: Traced, wrong: int | None) -> Values:
    """All values of a pass in which one operator gives other numbers, from which the rest follows."""
    values = dict(one.inputs)
    for index, operator in enumerate(one.program.operators):
        outputs = run_operator(operator, values, one.held)
        if index == wrong:
            outputs = [x * 1.05 if x.is_floating_point() else x for x in outputs]
        values |= {made.number: x for made, x in zip(operator.made, outputs, strict=True)}
    return values


def served(one: Traced, values: Values) -> torch.Tensor:
    return values[one.program.outputs[0]]


def begun(
    one: Traced, values: Values, manifest: str = "ab" * 32, layers: tuple[int, int] = (1, LAYERS)
) -> tuple[Game, TracedReferee]:
    inputs = tuple(digest(one.inputs[number]) for number in range(3))
    said = DisputeOpening(
        dispute=DISPUTE, accused=ACCUSED.node_id, accuser=ACCUSER.node_id, manifest=manifest, first=layers[0],
        last=layers[1],
        dtype="float32", inputs=inputs, served=digest(served(one, values)), limit=1e-3, versions="1", answer_s=30.0,
    )  # type: ignore[arg-type]  # fmt: skip
    referee = TracedReferee(one, served(one, values), said.limit)
    return Game(sign(JUDGE, Body(dispute=DISPUTE, number=0, previous=NOTHING_BEFORE, said=said)), referee), referee


def fought(one: Traced, accused: Values, accuser: Values | None = None, **opening: Any) -> tuple[Game, TracedReferee]:
    game, referee = begun(one, accused, **opening)
    sides = {
        ACCUSED.node_id: DisputeSide(ACCUSED, "accused", one, accused),
        ACCUSER.node_id: DisputeSide(ACCUSER, "accuser", one, accuser),
    }
    while game.outcome is None:
        game.handle(Stated(sides[game.due[0]].answer(game)), 0.0)
        game.check()
    return game, referee


def wrong_operators(program: TracedProgram, one: Traced, count: int) -> list[int]:
    """That change the output, when they are wrong."""
    good = served(one, with_fault(one, None))
    order = list(range(len(program.operators)))
    Random(5).shuffle(order)
    found: list[int] = []
    for at in order:
        changes = apart(served(one, with_fault(one, at)), good) > 1e-4
        makes = any(made.dtype == "float32" for made in program.operators[at].made)
        if changes and makes:
            found.append(at)
        if len(found) == count:
            break
    return found


def outcome(game: Game) -> DisputeOutcome:
    assert game.outcome is not None
    return game.outcome


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_operator_that_was_computed_wrongly_is_found_and_its_machine_loses(family: str) -> None:
    one = traced(family)
    program = one.program
    longest = max(high - low for low, high in zip(program.cuts, program.cuts[1:], strict=False))
    for at in wrong_operators(program, one, 4):
        game, _ = fought(one, with_fault(one, at))
        found = outcome(game)
        assert found.liars == ("accused",), (at, found)
        assert found.operator == program.operators[at].in_words()
        assert found.rounds <= ceil(log2(program.segments)) + ceil(log2(longest))


def test_an_accuser_that_lies_loses() -> None:
    one = traced("llama")
    good = with_fault(one, None)
    for at in wrong_operators(one.program, one, 2):
        game, _ = fought(one, good, with_fault(one, at))
        assert outcome(game).liars in (("accuser",), ())  # it withdraws where it finds nothing
    game, _ = fought(one, good, good)
    assert outcome(game).liars == ("accuser",)
    assert "computes the same" in outcome(game).reason


def test_a_pass_that_is_not_the_one_that_was_served_loses_at_once() -> None:
    one = traced("llama")
    bad = with_fault(one, wrong_operators(one.program, one, 1)[0])
    game, _ = begun(one, bad)
    game.handle(Stated(DisputeSide(ACCUSED, "accused", one).answer(game)), 0.0)
    assert outcome(game).liars == ("accused",)
    assert "is not what it has served" in outcome(game).reason


def test_a_transcript_leads_to_the_same_end_and_not_when_it_was_changed() -> None:
    one = traced("llama")
    game, referee = fought(one, with_fault(one, wrong_operators(one.program, one, 1)[0]))
    data = transcript(game.entries)
    entries = read_transcript(data)
    assert replayed(entries, referee) == outcome(game)
    with pytest.raises(ProtocolViolation, match="the rest is missing"):
        replayed(entries[:-1], referee)
    with pytest.raises(ProtocolViolation, match="something was added"):
        replayed([*entries, entries[-1]], referee)
    with pytest.raises(MusterError):
        replayed([entries[0], *entries[2:]], referee)
    first = entries[1].tensors[0]
    forged = TensorBytes(first.dtype, first.shape, bytes(len(first.data)))
    changed = SignedBody(entries[1].signer, entries[1].body, entries[1].signature, (forged,))
    with pytest.raises(ProtocolViolation, match="other tensors than it names"):
        replayed([entries[0], changed, *entries[2:]], referee)
    for bad in (b"", b"muster", data[:-5], data + b"x"):
        with pytest.raises(InvalidRequest):
            read_transcript(bad)


def test_how_far_two_tensors_are_apart() -> None:
    x = torch.ones(3, 4)
    assert apart(x, x.clone()) == 0
    assert apart(x * 1.01, x) == pytest.approx(0.01, rel=1e-4)
    assert apart(x, x[:2]) == apart(x * float("nan"), x) == float("inf")
    assert packed(x).digest() == digest(x)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(packed(x)), type=TensorBytes) == packed(x)


def test_anybody_with_the_model_replays_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("tiny")
    model.tokenizer.close()
    stage = build_stage(open_directory(model.path), 2, 4, torch.float32, torch.device("cpu"), plain=True)
    one = trace(stage, torch.randn(6, stage.hidden_size, generator=torch.Generator().manual_seed(1)))
    at = wrong_operators(one.program, one, 1)[0]
    accused = with_fault(one, at)
    game, _ = fought(one, accused, manifest=model.manifest.digest, layers=(2, 4))
    path = tmp_path / "dispute"
    path.write_bytes(transcript(game.entries))
    assert run_command(["verify", str(path), "--model", "tiny"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The accused lied" in said
    assert one.program.operators[at].name in said
    assert run_command(["verify", str(path)]) != 0
    assert "name the model with --model" in capsys.readouterr().err
    path.write_bytes(transcript(game.entries[:-1]))
    assert run_command(["verify", str(path), "--model", "tiny", "--json"]) == 1
    assert "the rest is missing" in capsys.readouterr().out
