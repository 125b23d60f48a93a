"""ECDSA by Longfellow (sum-check and Ligero, no trusted set-up): the two signatures of a credential, and its hashes."""

import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from muster.disk import cache_directory
from muster.verify.zk.bench.rows import ProverFigures
from muster.verify.zk.child import ChildLimits, WhyNot, python_of, run

SYSTEM = "Longfellow (pylongfellow)"
MODULE = "muster.verify.zk.bench.by_longfellow"
TYPE, SPACE, NAME = "org.iso.18013.5.1.mDL", "org.iso.18013.5.1", "age_over_18"


def prove_signature(folder: Path, limits: ChildLimits) -> ProverFigures | WhyNot:
    done = run(python_of(MODULE, str(_circuit_path())), limits, folder)
    if isinstance(done, WhyNot):
        missing = "No module named" in done.reason
        return WhyNot("not installed; pip install pylongfellow") if missing else done
    return ProverFigures(**done.said)


def _circuit_path() -> Path:
    return cache_directory() / "zk" / "longfellow.circuit"


def main() -> None:
    """In a process of its own: prove, verify, and see that three changes are refused. Prints figures as JSON."""
    import cbor2
    from pylongfellow import Pylongfellow
    from pylongfellow.backends import google_cpp
    from pylongfellow.mdoc import RequestedAttribute, VerifierError, testing

    path = Path(sys.argv[1])
    version = max(one.version for one in google_cpp.zk_specs() if one.num_attributes == 1)
    started = time.perf_counter()
    circuit = google_cpp.generate_circuit(version, 1) if not path.exists() else path.read_bytes()
    setup_s = time.perf_counter() - started if not path.exists() else float(path.with_suffix(".s").read_text())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".s").write_text(str(setup_s))
        path.write_bytes(circuit)
    prover = Pylongfellow(backend="google-cpp")
    prover.load_circuit(circuit, version, 1)
    now, day = datetime.now(UTC), timedelta(days=1)
    transcript = cbor2.dumps([None, None, ["receipt", b"1"]])
    shown = testing.create_presentation(TYPE, {SPACE: {NAME: True}}, transcript, now - day, now + day)
    claim = [RequestedAttribute(SPACE, NAME, b"\xf5")]
    key = shown.issuer_public_key
    started = time.perf_counter()
    proof = prover.prove(shown.mdoc, key, transcript, claim, now)
    prove_s = time.perf_counter() - started
    started = time.perf_counter()
    prover.verify(key, transcript, claim, now, proof, TYPE)
    verify_ms = (time.perf_counter() - started) * 1000

    def accepts(**changed: Any) -> bool:
        said = {"transcript": transcript, "claims": claim, "proof": proof} | changed
        try:
            prover.verify(key, said["transcript"], said["claims"], now, said["proof"], TYPE)
        except VerifierError:
            return False
        return True

    other = [RequestedAttribute(SPACE, NAME, b"\xf4")]
    changes = [{"claims": other}, {"proof": proof[:-50]}, {"transcript": cbor2.dumps([None, None, ["receipt", b"2"]])}]
    wrong = sum(accepts(**change) for change in changes)
    assert not wrong, f"{wrong} of {len(changes)} changed proofs were accepted"
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = "two P-256 signatures and SHA-256 over a credential; no trusted set-up; 3 changes refused"
    figures = {"prove_s": prove_s, "verify_ms": verify_ms, "proof_bytes": len(proof), "peak_mb": peak_mb, "size": 0}
    print("\n" + json.dumps(figures | {"setup_s": setup_s, "setup_bytes": len(circuit), "note": note}), flush=True)


if __name__ == "__main__":
    main()
