"""Proofs of a disputed tile: what they prove, and that nothing changed is accepted. One proof serves all tests."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from muster.errors import InvalidRequest, ProtocolViolation
from muster.verify.zk import evidence, tile
from muster.verify.zk.evidence import TileProof
from muster.verify.zk.transcript import shown
from tests.verify.zk.disputes import NAME, dispute, weights

pytest.importorskip("ezkl", reason="the extra `zk` is not installed: no proof is made or rejected here")
pytest.importorskip("onnx", reason="the extra `zk` is not installed: no proof is made or rejected here")
HELD = {NAME: weights()}
LIE = shown(dispute(weights(), lie=0.01))
PLACE = tile.worst_place(LIE, HELD, rows=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, TileProof]:
    """The folder of a proof, the verifier's parameters, and what it took."""
    folder = tmp_path_factory.mktemp("zk")
    out, srs = folder / "proof", folder / "kzg.srs"
    return out, srs, evidence.prove(LIE, PLACE, tile.secret(LIE.operator, HELD, PLACE), out, srs)


def test_a_proven_tile_shows_a_lie_of_one_percent_and_its_bounds(made: tuple[Path, Path, TileProof]) -> None:
    out, srs, proved = made
    verdict = evidence.check(LIE, out, proved.key, srs)
    w_RK = tile.secret(LIE.operator, HELD, PLACE)
    seen = tile.given(LIE, PLACE)
    assert abs(verdict.exact_R - w_RK @ seen.x_K).max() <= verdict.error < 1e-8
    assert verdict.is_lie
    assert verdict.off == pytest.approx(0.01, rel=1e-3)
    assert verdict.verify_s < 0.5  # milliseconds where nothing else runs


def test_the_proof_of_an_honest_tile_finds_no_lie(made: tuple[Path, Path, TileProof], tmp_path: Path) -> None:
    """Another claim about the same input: the same proof, as it says nothing of the claim."""
    out, srs, _ = made
    honest = shown(dispute(weights()))
    copy = _changed(out, tmp_path, "statement.json", {"place": honest.place.hex()})
    assert not evidence.check(honest, copy, srs=srs).is_lie


@pytest.mark.parametrize("number", [0, 7, 15, 16, 18])
def test_a_changed_public_value_is_rejected(made: tuple[Path, Path, TileProof], tmp_path: Path, number: int) -> None:
    """Of the input (0 to 15) and of the output (16 to 19)."""
    out, srs, _ = made
    proof = json.loads((out / "proof.json").read_text())
    word = proof["instances"][0][number]
    proof["instances"][0][number] = f"{(int(word[:2], 16) + 1) % 256:02x}{word[2:]}"
    copy = _changed(out, tmp_path, "proof.json", {"instances": proof["instances"]})
    with pytest.raises(ProtocolViolation, match=r"another input|does not hold"):
        evidence.check(LIE, copy, srs=srs)


def test_a_truncated_proof_is_rejected(made: tuple[Path, Path, TileProof], tmp_path: Path) -> None:
    out, srs, _ = made
    proof = json.loads((out / "proof.json").read_text())
    cut = {"proof": proof["proof"][:-32], "hex_proof": proof["hex_proof"][:-64]}
    with pytest.raises(ProtocolViolation, match="does not hold"):
        evidence.check(LIE, _changed(out, tmp_path, "proof.json", cut), srs=srs)
    (tmp_path / "proof" / "proof.json").write_bytes((out / "proof.json").read_bytes()[:1000])
    with pytest.raises(ProtocolViolation, match="cut or changed"):
        evidence.check(LIE, tmp_path / "proof", srs=srs)


def test_the_key_of_other_weights_is_told_and_the_same_weights_make_the_same_key(
    made: tuple[Path, Path, TileProof], tmp_path: Path
) -> None:
    out, srs, proved = made
    claimed = evidence.read_statement(out)
    keys = []
    for seed in (0, 1):
        held = {NAME: weights(seed)}
        w_RK = held[NAME][PLACE.first : PLACE.last].double().numpy()
        keys.append(evidence.key_for(w_RK, claimed, tmp_path / str(seed), srs))
    assert keys[0] == proved.key != keys[1]
    other = _changed(out, tmp_path, "statement.json", {})
    (other / "verifying.key").write_bytes((tmp_path / "1" / "verifying.key").read_bytes())
    with pytest.raises(ProtocolViolation, match="another one"):
        evidence.check(LIE, other, srs=srs)
    with pytest.raises(ProtocolViolation, match="does not hold"):
        evidence.check(LIE, _changed(other, tmp_path, "statement.json", {"key": evidence.key_of(other)}), srs=srs)


def test_a_proof_of_another_dispute_or_place_is_rejected(made: tuple[Path, Path, TileProof], tmp_path: Path) -> None:
    out, srs, _ = made
    with pytest.raises(ProtocolViolation, match="another dispute"):
        evidence.check(shown(dispute(weights(), lie=0.5)), out, srs=srs)
    with pytest.raises(ProtocolViolation, match="another input"):
        evidence.check(LIE, _changed(out, tmp_path, "statement.json", {"token": 0}), srs=srs)
    with pytest.raises(InvalidRequest, match="parameters"):
        evidence.check(LIE, out, srs=tmp_path / "none")


def _changed(out: Path, tmp_path: Path, name: str, fields: dict[str, object]) -> Path:
    copy = copytree(out, tmp_path / "proof", dirs_exist_ok=True) if out != tmp_path / "proof" else out
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return copy
