"""What of a device's memory can be planned with. Knows no model, and no program's own needs.

The rest is kept for what no plan counts: the driver's context, workspaces of kernels, and holes between allocations.
Engines keep a tenth (vLLM) or that of what is free (TensorRT-LLM); a context takes about 400 MB.
macOS gives its graphics processor about three quarters of a Mac's memory.
"""

LEAST_BYTES = 384 * 2**20
SHARE, MAX_SHARE = 0.03, 0.25
MAC_SHARE = 0.75


def usable_bytes(kind: str, free_bytes: int, total_bytes: int | None = None) -> int:
    """Of a device with so much free memory, of so much that the machine has (else all was free)."""
    if kind == "mps":
        return min(free_bytes, int(MAC_SHARE * (total_bytes or free_bytes)))
    kept = min(max(LEAST_BYTES, SHARE * free_bytes), MAX_SHARE * free_bytes)
    return free_bytes - int(kept)
