"""What others published of provers that cannot be installed here. Other machines, other statements."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublishedProof:
    task: str
    system: str
    prove_s: float
    peak_mb: float | None
    proof: str
    machine: str
    source: str


_BENCH = "zk-bench (vreff), medians of three"
_RYZEN = "Ryzen 5900X, 24 threads"
_ATLAS = "Jolt Atlas, README of 2026-08"
ROWS = (
    PublishedProof("Merkle, 8 leaves", "Groth16 (ZoKrates)", 0.03, 23, "849 B", _RYZEN, _BENCH),
    PublishedProof("Merkle, 8 leaves", "UltraHonk (Noir)", 0.06, 39, "15.6 KB", _RYZEN, _BENCH),
    PublishedProof("Merkle, 8 leaves", "Groth16 (snarkjs)", 0.45, 445, "806 B", _RYZEN, _BENCH),
    PublishedProof("Merkle, 8 leaves", "PLONK (snarkjs)", 1.9, 650, "2.2 KB", _RYZEN, _BENCH),
    PublishedProof("Merkle, 8 leaves", "Jolt", 1.6, 182, "77.5 KB", _RYZEN, _BENCH),
    PublishedProof("Merkle, 8 leaves", "RISC Zero", 9.2, 1_189, "239 KB", _RYZEN, _BENCH),
    PublishedProof("Merkle, 8 leaves", "SP1", 39.4, 9_764, "2.6 MB", _RYZEN, _BENCH),
    PublishedProof("GPT-2, 16 tokens", "Jolt Atlas", 14.9, None, "", "MacBook M3, 16 GB", _ATLAS),
    PublishedProof("nanoGPT, 0.25M", "Jolt Atlas", 2.29, None, "", "MacBook M3, 16 GB", _ATLAS),
    PublishedProof("nanoGPT, 0.25M", "halo2-KZG (ezkl)", 237, None, "", "MacBook M3, 16 GB", _ATLAS),
    PublishedProof(
        "GPT-2, 512 tokens", "DeepProve", 456, None, "10.7 MiB", "24 cores, 504 GB", "DeepProve, README of 2026"
    ),
)
