"""A folder that convinces a third party of a few rows of a disputed operator: proof, key, settings, statement.

Whoever has the weights makes it (`prove`); anybody with the transcript checks it (`check`). Three things are trusted,
and named: that the verifying key is of the disputed weights (whoever has them can make it again and compare), the
largest weight that its maker states, and the public parameters (sound only if the verifier, or a ceremony, made them).
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3

from muster.errors import InvalidRequest, ProtocolViolation
from muster.verify.zk.child import ChildLimits
from muster.verify.zk.fixed import Numbers, check_range, from_words, product_error, rounded
from muster.verify.zk.halo2 import LARGEST_K, UNHURRIED, CircuitShape, Halo2Circuit, expect, parameters_path
from muster.verify.zk.network import NetworkLayer, onnx_bytes
from muster.verify.zk.tile import TileInputs, TilePlace, given
from muster.verify.zk.transcript import ShownOperator

BITS = 36
"""Behind the point of inputs and of weights; float32 weights above 2**-13 stand exactly."""
COLUMNS = 4
FILES = ("proof.json", "settings.json", "verifying.key")
MAX_BYTES = 2**26
"""Of any file that a stranger made."""


class TileStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`statement.json`. Hexadecimal digests are BLAKE3."""

    place: str
    """Of the dispute's last statement."""
    operator: str
    token: int
    first: int
    last: int
    bits: int
    k: int
    largest_w: float
    key: str


@dataclass(frozen=True, slots=True)
class TileProof:
    key: str
    seconds: dict[str, float]
    total_s: float
    peak_mb: float
    proof_bytes: int
    k: int
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class TileVerdict:
    """What follows from a proof that holds."""

    exact_R: Numbers = field(repr=False)
    """The result that was proven, up to `error`."""
    off: float
    """The largest distance between claim and proof."""
    error: float
    """How far quantisation may have taken any of the proven numbers from the exact ones."""
    radius: float
    """How far an honest machine may be from the exact number, where the claim is furthest out."""
    share: float
    """The worst of `off` as a share of `error + radius`; above 1 the claim is a lie."""
    verify_s: float

    @property
    def is_lie(self) -> bool:
        return self.share > 1.0


def tile_shape(bits: int) -> CircuitShape:
    return CircuitShape(columns=COLUMNS, x_bits=bits, w_bits=bits, rebase=10)


def prove(
    shown: ShownOperator, place: TilePlace, w_RK: Numbers, out: Path, srs: Path | None = None, bits: int = BITS,
    limits: ChildLimits = UNHURRIED,
) -> TileProof:  # fmt: skip
    """Prove what the rows `w_RK` make of the disputed input, and write the folder `out`.

    What is secret is in a folder that is removed. Raises `MachineTrouble` where the prover does not get there.
    """
    started = time.monotonic()
    seen = given(shown, place)
    largest_w = float(np.abs(w_RK).max())
    check_range(seen.x_K, largest_w, bits, bits)
    if (w_RK.astype(np.float32) != w_RK).any():
        raise InvalidRequest(
            "The weights are finer than float32, which no proof here can hold; run the operator again."
        )
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="muster-zk-") as temporary:
        folder = Path(temporary)
        circuit = Halo2Circuit(folder, limits)
        circuit.write(onnx_bytes(len(seen.x_K), [NetworkLayer(w_RK.astype(np.float32))]), seen.x_K.tolist())
        done = expect(circuit.prove(tile_shape(bits), srs=srs), "The proof")
        if not done.said["holds"]:
            raise ProtocolViolation(f"The proof does not hold ({done.said['why']}); the public parameters do not fit.")
        for name in FILES:
            copyfile(folder / name, out / name)
    claimed = TileStatement(
        place=shown.place.hex(), operator=shown.operator.in_words(), token=place.token, first=place.first,
        last=place.last, bits=bits, k=done.said["k"], largest_w=largest_w, key=key_of(out),
    )  # fmt: skip
    (out / "statement.json").write_bytes(msgspec.json.format(msgspec.json.encode(claimed)))
    proof = len(json.loads((out / "proof.json").read_text())["proof"])
    rows = done.said["settings"]["num_rows"]
    took = time.monotonic() - started
    return TileProof(claimed.key, done.said["seconds"], took, done.peak_mb, proof, claimed.k, rows)


def check(shown: ShownOperator, out: Path, key: str | None = None, srs: Path | None = None) -> TileVerdict:
    """Verify the folder against the dispute. `key`: of the verifying key, from somebody who has the weights.

    Raises `ProtocolViolation` where it is of another place, another key or another input, or does not hold.
    """
    claimed = read_statement(out)
    if claimed.place != shown.place.hex():
        raise ProtocolViolation("The proof is of another dispute; it was replayed or sent astray.")
    if claimed.key != key_of(out) or (key is not None and key != claimed.key):
        raise ProtocolViolation("The verifying key is another one than was named; ask whoever has the weights for it.")
    seen = given(shown, TilePlace(claimed.token, claimed.first, claimed.last))
    check_range(seen.x_K, claimed.largest_w, claimed.bits, claimed.bits)
    proven = _instances(out)
    expected, count = rounded(seen.x_K, claimed.bits), len(seen.claimed_R)
    if len(proven) != len(expected) + count or proven[: len(expected)] != expected:
        raise ProtocolViolation("The proof is about another input than the disputed one; it proves nothing here.")
    srs = srs or parameters_path(_size(claimed.k))
    if not srs.exists():
        raise InvalidRequest(f"There are no public parameters of 2**{claimed.k} rows; name those of the proof (--srs).")
    with TemporaryDirectory(prefix="muster-zk-") as temporary:
        for name in FILES:
            (Path(temporary) / name).write_bytes(_read(out / name))
        holds, why, seconds = Halo2Circuit(Path(temporary), ChildLimits(4_000, 60)).verify(srs.resolve())
    if not holds:
        raise ProtocolViolation(f"The proof does not hold ({why}); it was cut or changed, or is of another circuit.")
    return _verdict(seen, np.array(proven[-count:], dtype=np.float64) / 4.0**claimed.bits, claimed, seconds)


def key_for(w_RK: Numbers, claimed: TileStatement, folder: Path, srs: Path | None = None) -> str:
    """Digest of the verifying key that belongs to these weights: made anew, without a proof."""
    circuit = Halo2Circuit(folder)
    inner = w_RK.shape[1]
    circuit.write(onnx_bytes(inner, [NetworkLayer(w_RK.astype(np.float32))]), [0.0] * inner)
    expect(circuit.lay_out(tile_shape(claimed.bits)), "The key")
    srs = srs or parameters_path(claimed.k)
    expect(circuit.parameters(claimed.k, srs), "The public parameters")
    expect(circuit.steps(["resize", "compile", "keys"], k=claimed.k, srs=str(srs)), "The key")
    return key_of(folder)


def read_statement(out: Path) -> TileStatement:
    try:
        return msgspec.json.decode(_read(out / "statement.json"), type=TileStatement)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolViolation(f"{out / 'statement.json'} cannot be read ({error}); it was cut or changed.") from error


def key_of(out: Path) -> str:
    """Of the key together with the settings, which say what it means."""
    return blake3(_read(out / "verifying.key") + _meaning(out)).hexdigest()


def _size(k: int) -> int:
    if not 1 <= k <= LARGEST_K:
        raise ProtocolViolation(f"The proof says to have 2**{k} rows; its maker does not run Muster.")
    return k


def _meaning(out: Path) -> bytes:
    try:
        settings = json.loads(_read(out / "settings.json"))
        settings.pop("timestamp", None)
    except (ValueError, AttributeError) as error:
        raise ProtocolViolation(f"{out / 'settings.json'} cannot be read; it was cut or changed.") from error
    return json.dumps(settings, sort_keys=True).encode()


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProtocolViolation(f"{path} is larger than any proof of a tile; its maker does not run Muster.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}); name the folder of a proof.") from error


def _instances(out: Path) -> list[int]:
    try:
        proof: Any = json.loads(_read(out / "proof.json"))
        return from_words([word for part in proof["instances"] for word in part])
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolViolation(f"{out / 'proof.json'} cannot be read; it was cut or changed.") from error


def _verdict(seen: TileInputs, exact_R: Numbers, claimed: TileStatement, verify_s: float) -> TileVerdict:
    error = product_error(seen.x_K, claimed.largest_w, claimed.bits, claimed.bits)
    radius_R = seen.radius(exact_R, claimed.largest_w)
    off_R = np.abs(seen.claimed_R - exact_R)
    shares = np.where(np.isfinite(off_R), off_R / (radius_R + error), np.inf)
    worst = int(np.argmax(shares))
    return TileVerdict(exact_R, float(off_R.max()), error, float(radius_R[worst]), float(shares[worst]), verify_s)
