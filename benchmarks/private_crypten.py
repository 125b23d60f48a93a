"""One party of two in CrypTen: transformer layers on a shared input with public weights. Started by `private.py`.

    python benchmarks/private_crypten.py RANK FILE LAYERS TOKENS FOLDER

CrypTen 0.4.1 wants another torch than ours; what it looks for under an old name is given to it. Its packages lie in
FOLDER: `pip install --target FOLDER --no-deps` with crypten==0.4.1, omegaconf==2.3.0, antlr4-python3-runtime==4.9.3,
onnx, future, pyyaml, protobuf and ml_dtypes. The activation is ReLU, which is cheaper there than GELU; the arithmetic
is CrypTen's default (16 bits of fraction, multiplication triples from a trusted first party, whose traffic is not
counted). Bytes and rounds are by its own counter.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

WIDTH, HEADS, INNER = 768, 12, 3072


def weights(layers: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * rows**-0.5

    return [
        {"qkv": matrix(WIDTH, 3 * WIDTH), "out": matrix(WIDTH, WIDTH), "up": matrix(WIDTH, INNER),
         "down": matrix(INNER, WIDTH)}
        for _ in range(layers)
    ]  # fmt: skip


def normed(x: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    return centred * ((centred * centred).mean(-1, keepdim=True) + 1e-5).inv_sqrt()


def layer(x: Any, w: dict[str, torch.Tensor], mask: torch.Tensor) -> Any:
    size, tokens = WIDTH // HEADS, x.shape[0]
    qkv = normed(x).matmul(w["qkv"])
    q, k, v = (qkv[:, at * WIDTH : (at + 1) * WIDTH].view(tokens, HEADS, size).transpose(0, 1) for at in range(3))
    scores = q.matmul(k.transpose(1, 2)) * size**-0.5 + mask
    attended = scores.softmax(-1).matmul(v).transpose(0, 1).reshape(tokens, WIDTH)
    x = x + attended.matmul(w["out"])
    return x + normed(x).matmul(w["up"]).relu().matmul(w["down"])


def plain_layer(x: torch.Tensor, w: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """The same in the open."""
    size, tokens = WIDTH // HEADS, x.shape[0]
    qkv = torch.nn.functional.layer_norm(x, (WIDTH,)) @ w["qkv"]
    q, k, v = (qkv[:, at * WIDTH : (at + 1) * WIDTH].view(tokens, HEADS, size).transpose(0, 1) for at in range(3))
    attended = ((q @ k.transpose(1, 2) * size**-0.5 + mask).softmax(-1) @ v).transpose(0, 1).reshape(tokens, WIDTH)
    x = x + attended @ w["out"]
    return x + (torch.nn.functional.layer_norm(x, (WIDTH,)) @ w["up"]).relu() @ w["down"]


def main() -> None:
    rank, file, layers, tokens, folder = int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]), sys.argv[5]
    sys.path.append(folder)
    import torch.onnx._internal.torchscript_exporter.registration as moved

    sys.modules["torch.onnx._internal.registration"] = moved
    import crypten
    import crypten.communicator as comm
    from crypten.config import cfg

    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "RENDEZVOUS": f"file://{file}.meet"}
    torch.set_num_threads(1)
    crypten.init()
    made = weights(layers)
    x = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = torch.full((tokens, tokens), -30.0).triu(1)
    shared = crypten.cryptensor(x, src=0)
    cfg.communicator.verbose = True
    comm.get().reset_communication_stats()
    start = time.perf_counter()
    out = shared
    for each in made:
        out = layer(out, each, mask)
    found = out.get_plain_text()
    seconds = time.perf_counter() - start
    stats = comm.get().get_communication_stats()
    if rank == 0:
        plain = x
        for each in made:
            plain = plain_layer(plain, each, mask)
        record = {"seconds": seconds, "bytes": stats["bytes"], "rounds": stats["rounds"]}
        record["largest_difference"] = float((found - plain).abs().max())
        file.write_text(json.dumps(record))
    sys.stdout.flush()
    os._exit(0)  # it waits for threads of its own


if __name__ == "__main__":
    main()
