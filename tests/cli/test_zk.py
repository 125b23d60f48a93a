"""`muster zk`: from the file of a dispute to a proof, and from the proof to an exit code."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from muster.cli.main import run_command
from muster.cli.zk import EXIT_LIE
from muster.verify.zk.transcript import write_transcript
from tests.verify.zk.disputes import NAME, dispute, weights

pytest.importorskip("ezkl", reason="the extra `zk` is not installed: no proof is made here")
pytest.importorskip("onnx", reason="the extra `zk` is not installed: no proof is made here")


def test_a_dispute_ends_in_a_proof_that_others_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file, out = tmp_path / "model", tmp_path / "dispute", str(tmp_path / "proof")
    model.mkdir()
    save_file({NAME: weights()}, model / "model.safetensors")
    (model / "config.json").write_text("{}")
    write_transcript(file, dispute(weights(), lie=0.01))
    srs = ["--srs", str(tmp_path / "kzg.srs"), "--json"]
    assert run_command(["zk", "parameters", "6", "--out", str(tmp_path / "kzg.srs"), "--json"]) == 0
    options = ["--weights", str(model), "--rows", "4", "--out", out]
    assert run_command(["zk", "prove", str(file), *options, *srs]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["is_lie"]
    assert made["k"] == 6
    assert run_command(["zk", "check", str(file), out, "--weights", str(model), *srs]) == EXIT_LIE
    assert json.loads(capsys.readouterr().out)["key_known"]
    assert run_command(["zk", "check", str(file), out, "--key", "ab" * 32, *srs]) == 6
    assert "another one than was named" in capsys.readouterr().out


def test_a_dispute_that_ended_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dispute"
    write_transcript(file, dispute(weights())[:1])
    assert run_command(["zk", "check", str(file), str(tmp_path)]) == 6
    file.write_bytes(b"\x93\x01")
    assert run_command(["zk", "check", str(file), str(tmp_path)]) == 6
    assert "does not end at one operator" in capsys.readouterr().err
