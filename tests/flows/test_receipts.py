"""What a ring signs while it serves: all positions, by both ends of every boundary, and a changed file is found out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from muster.cli.main import run_command
from muster.errors import InvalidRequest
from muster.link.base import short_id
from muster.model.weights import open_directory
from muster.node.audit.kept import limits_for
from muster.node.audit.looking import look
from muster.node.audit.recomputing import recomputed, stages_of
from muster.node.runners.serve.later import LaterStage
from muster.spec.receipt import receipt_name
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.verify.receipt_file import checked, read
from tests.flows.live_pool import LivePool

TOKENS = 150


def asked(pool: LivePool, name: str, tokens: int = TOKENS) -> bytes:
    """The file of receipts of a request that has been answered and signed to its end."""
    first = 1 + len(name)  # each name begins otherwise, so that no pages are reused
    pool.ask([Request(name, tuple(range(first, first + 40)), Sampling(max_tokens=tokens, temperature=0.8, seed=3))])

    def is_signed() -> bool:
        kept = pool.service._shelf._requests.get(receipt_name(name))
        if kept is None:
            return False
        found = kept.findings()
        wide = [one for one in found if one.end >= 40 + tokens - 1]
        return len(wide) == 4 and all(one.both == one.end for one in wide[:3])

    pool.until("receipts", is_signed)
    return pool.run(pool.service.receipts(name))


@pytest.fixture(scope="module")
def signed(shared_pool: LivePool) -> bytes:
    return asked(shared_pool, "signed")


def test_both_ends_of_every_boundary_sign_every_position(signed: bytes) -> None:
    file = read(signed)
    findings = checked(file).findings(file.tokens)
    assert [one.problem for one in findings] == [""] * 4
    assert [(one.start, one.end, one.both) for one in findings[:3]] == [(0, 189, 189)] * 3
    assert (findings[3].start, findings[3].end) == (39, 189)  # where the tokens of the answer are chosen
    assert len(file.tokens or ()) == 190


def test_receipts_take_no_more_than_258_bytes_of_32_tokens_and_boundary(signed: bytes) -> None:
    (ring,) = read(signed).rings
    nbytes = sum(len(msgspec.msgpack.encode(one)) for one in (*ring.sent, *ring.received) if one.layer < ring.cuts[-1])
    assert nbytes <= 258 * 3 * 190 / 32 * 1.25  # the last few blocks are cut short, and bear a signature of their own


def test_the_file_is_checked_without_the_pool(
    signed: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "receipts.json"
    path.write_bytes(signed)
    assert run_command(["verify", str(path)]) == 0
    assert "Every signature is good" in capsys.readouterr().out
    changed = json.loads(signed)
    changed["answer"][7] += 1
    path.write_text(json.dumps(changed))
    assert run_command(["verify", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "not those that the last stage has signed" in found["boundaries"][3]["problem"]
    assert len(found["boundaries"][3]["suspects"]) == 2


@pytest.fixture(scope="module")
def calibrated(model_path: Path) -> Path:
    assert run_command(["calibrate", str(model_path), "--texts", "3", "--length", "128", "--json"]) == 0
    return model_path


def test_the_numbers_are_those_of_the_model(
    signed: bytes, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "receipts.json"
    path.write_bytes(signed)
    assert run_command(["verify", str(path), "--model", str(calibrated), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)["numbers"]
    assert [one["layer"] for one in numbers] == [2, 4, 6, 8]
    assert max(one["verdict"]["drift"] for one in numbers) <= 1
    assert numbers[3]["verdict"]["margin"] <= 1
    assert run_command(["verify", str(path), "--model", "tiny"]) != 0
    assert "The receipts are of another model" in capsys.readouterr().err


def test_a_machine_of_a_ring_that_computes_something_else_is_named(
    calibrated: Path, shared_pool: LivePool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheat = shared_pool.serving(2)
    (held,) = cheat.worker._stages._held.values()
    assert isinstance(held.runner, LaterStage)
    stage = held.runner._follower._stage
    honest = stage.run
    stage.run = lambda *given: honest(*given) * 1.03  # type: ignore[method-assign]
    try:
        content = asked(shared_pool, "cheated", tokens=40)
    finally:
        stage.run = honest  # type: ignore[method-assign]
    path = tmp_path / "receipts.json"
    path.write_bytes(content)
    assert run_command(["verify", str(path), "--json"]) == 0  # signatures alone say nothing of it
    capsys.readouterr()
    assert run_command(["verify", str(path), "--model", str(calibrated)]) == 1
    assert f"Node {short_id(cheat.id)} did other work than it was to do" in " ".join(capsys.readouterr().out.split())


def test_the_first_stage_whose_numbers_are_others_is_named(
    signed: bytes, calibrated: Path, shared_pool: LivePool
) -> None:
    file = read(signed)
    receipts = checked(file)
    ((epoch, ring),) = receipts.rings.items()
    limits = limits_for(ring.manifest, ring.dtype, str(calibrated))
    stages = list(stages_of(open_directory(calibrated), ring.cuts, torch.float32))
    tokens, num_prompt = file.tokens or (), len(file.prompt)

    def found(change: Callable[[int, torch.Tensor], torch.Tensor], sampling: Sampling | None) -> list[bool]:
        truths, x = [], torch.tensor(tokens[:-1])
        for index, stage in enumerate(stages):
            x = change(index, recomputed(stage, x, num_prompt - 1))
            truths.append(x)
        seen = look(receipts, epoch, iter(truths), limits, tokens, num_prompt, sampling)
        return [one.verdict.passes for one in seen]

    assert found(lambda index, x: x, file.sampling) == [True] * 4
    scaled = found(lambda index, x: x * (1 + 0.05 * torch.sin(torch.arange(x.shape[1]))) if index == 2 else x, None)
    assert scaled[:3] == [True, True, False]
    assert file.sampling is not None
    other = replace(file.sampling, temperature=1.5)
    assert found(lambda index, x: x, other) == [True, True, True, False]


def test_without_limits_the_command_that_finds_them_is_named() -> None:
    with pytest.raises(InvalidRequest, match="run `muster calibrate small --dtype float16` first"):
        limits_for("ab" * 32, "float16", "small")


@pytest.mark.parametrize(
    ("words", "said"), [(["--texts", "0"], "0 texts cannot"), (["--length", "5"], "tells nothing")]
)
def test_a_calibration_that_tells_nothing_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["calibrate", "tiny", *words]) != 0
    assert said in capsys.readouterr().err


def test_of_a_request_that_nobody_knows_there_is_nothing(shared_pool: LivePool) -> None:
    with pytest.raises(InvalidRequest, match="There are no receipts of request 'never'"):
        shared_pool.run(shared_pool.service.receipts("never"))
