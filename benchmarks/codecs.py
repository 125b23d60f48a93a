"""Codecs on links: how fast they are, what they change, and what they bring where a link holds up the ring.

    python benchmarks/codecs.py [--parts speed quality link] [--json benchmarks/results/codecs.json]

speed    GB of hidden states a second, encoded and decoded on one core, beside a copy of the same memory in the same
         minute (the median of rounds that take turns); and the bytes of one token on the wire. A message is what a step
         of 512 tokens sends, in the dtype of the model.
quality  The calibration text through four stages in this process, raw and packed, as a pool's check has it
         (`serve/calibration`): of the embedded model, and of two that are no language models: a dense one and a mixture
         of experts with random weights, whose likeliest tokens lie close together. All three hops carry the codec.
link     Two machines as processes, a link of 20 Mbit/s between them (our own shaping): tokens/s with int8 and with bf16
         on it, in turns. The model has the hidden size of one of 8 B parameters and next to no layers, and computes in
         float32 (processors without bfloat16 crawl in it), so that the link is the bottleneck on two cores, too; its
         weights are such that it repeats what it is told, which makes the check's verdict certain. What a link carries
         does not depend on what the values are.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent))
import itertools

from benchmarks.forecast_models import DTYPE, NAMES, folder_of
from benchmarks.forecast_pool import Asked, LivePool, Machine, start
from benchmarks.records import record_parts
from muster.compress.registry import PLAIN, make_coder
from muster.head.model import load_model
from muster.lab.processes import Lab
from muster.model.load import load_stage
from muster.model.shape import shape_of
from muster.model.weights import open_directory
from muster.serve.batch import make_batch
from muster.serve.calibration import Comparison, pieces
from muster.spec.codec import Codec
from tests.text.small_tokenizers import train_byte_level

CODECS = ("fp32", "bf16", "fp16", "int8", "int4")
TOKENS, HIDDEN = 512, 4096
ROUNDS = 15
STAGES = 4
PAGE_SIZE = 16
SCENARIO = """
name = "slow-link"
regions = ["near", "far"]
[inside]
latency_s = 0.0002
bandwidth_bytes_per_s = 1e9
[[link]]
between = ["near", "far"]
latency_s = 0.010
bandwidth_bytes_per_s = 2.5e6
"""
STREAMS, OUTPUT_TOKENS, PROMPT_TOKENS = 96, 48, 8


def speed() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {str(dtype).removeprefix("torch."): _speeds(dtype) for dtype in (torch.float32, torch.bfloat16)}


def _speeds(dtype: torch.dtype) -> dict[str, Any]:
    hidden = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = torch.empty_like(hidden)
    found: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in CODECS}
    copies, token_bytes = [], {"raw": hidden.nbytes / TOKENS}
    for _ in range(ROUNDS):
        copies.append(hidden.nbytes / _seconds(lambda: target.copy_(hidden)) / 1e9)
        for name in CODECS:
            coder = make_coder(Codec(name))
            header, payload = coder.encode(hidden)
            token_bytes[name] = len(payload) / TOKENS
            decode = coder.decode
            found[name]["encode"].append(hidden.nbytes / _seconds(lambda: coder.encode(hidden)) / 1e9)  # noqa: B023
            found[name]["decode"].append(
                hidden.nbytes / _seconds(lambda: decode(header, payload, 2**30)) / 1e9  # noqa: B023
            )
    medians = {
        name: {way: round(statistics.median(all_), 3) for way, all_ in one.items()} for name, one in found.items()
    }
    return {"copy": round(statistics.median(copies), 3), "gigabytes_per_s": medians, "token_bytes": token_bytes}


def _seconds(work: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def quality(home: Path) -> dict[str, Any]:
    return {name: _qualities(folder_of(name, home)) for name in NAMES}


def _qualities(folder: str) -> dict[str, Any]:
    model = load_model(folder)
    try:
        tokens = [token % model.shape.vocab_size for token in model.calibration]
        weights, layers = open_directory(model.path), model.shape.num_layers
        cuts = [round(layers * i / STAGES) for i in range(STAGES + 1)]
        dtype = getattr(torch, model.shape.dtype)
        stages = [
            load_stage(weights, first, last, dtype, torch.device("cpu")) for first, last in itertools.pairwise(cuts)
        ]
    finally:
        model.tokenizer.close()
    found = {codec: _compared(stages, tokens, codec, model.shape.max_context) for codec in CODECS}
    return {"dtype": model.shape.dtype, "positions": len(tokens), "hops": STAGES - 1, "codecs": found}


def _compared(stages: Sequence[Any], tokens: Sequence[int], codec: str, max_context: int) -> dict[str, float]:
    pages = 2 * -(-min(len(tokens), max_context) // PAGE_SIZE)
    caches = [stage.new_cache(pages, PAGE_SIZE) for stage in stages]
    comparison, agreed, divergence = Comparison(), 0, 0.0
    for piece in pieces(tokens, pages, PAGE_SIZE, max_context, 512):
        x, coder = torch.tensor(piece.tokens), PLAIN if piece.raw else make_coder(Codec(codec))
        comparison.begin(piece.row, piece.raw)
        look = comparison.keep if piece.raw else comparison.compare
        for stage, cache in zip(stages, caches, strict=True):
            batch = make_batch([piece.row], PAGE_SIZE, stage.device, cache.enter([piece.row], ()))
            x = stage.run(batch, cache, x, look)
            if stage is not stages[-1]:
                header, payload = coder.encode(x)
                x = coder.decode(header, payload, 2**30)
        if not piece.raw:
            agreed, divergence = agreed + comparison.agreed, divergence + comparison.divergence
    return {"agreement": agreed / len(tokens), "divergence": divergence / len(tokens)}


def wide_model(folder: Path) -> Path:
    """Hidden size 4,096, two thin layers, and an embedding so strong that each token predicts itself."""
    tokenizer = train_byte_level()
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


async def link(home: Path, repetitions: int) -> dict[str, Any]:
    folder = wide_model(home / "wide")
    found: dict[str, list[dict[str, Any]]] = {"bf16": [], "int8": []}
    for _ in range(repetitions):
        for codec, runs in found.items():
            runs.append(await _pool(folder, codec))
    medians = {codec: statistics.median(run["tokens_per_s"] for run in runs) for codec, runs in found.items()}
    return {"runs": found, "tokens_per_s": medians, "times": medians["int8"] / medians["bf16"]}


async def _pool(folder: Path, codec: str) -> dict[str, Any]:
    shape = shape_of(open_directory(folder).config_json, str(folder), DTYPE)
    with tempfile.TemporaryDirectory() as temporary:
        scenario = Path(temporary) / "slow-link.toml"
        scenario.write_text(SCENARIO)
        async with Lab(Path(temporary), str(scenario)) as lab:
            machines = [Machine("one", "near", 1.0, 1), Machine("two", "far", 1.0, 1)]
            pool = await start(lab, str(folder), shape, machines, "near", 0, codec)
            asked = [
                Asked(0.0, tuple((7 * stream + i) % 200 for i in range(PROMPT_TOKENS)), OUTPUT_TOKENS)
                for stream in range(STREAMS)
            ]
            await pool.ask(asked[: STREAMS // 4])  # what is slow only once is not measured
            began_s, cpu_s = time.perf_counter(), pool.cpu_seconds()
            answers = await pool.ask(asked)
            wall_s = time.perf_counter() - began_s
            cores = (pool.cpu_seconds() - cpu_s) / wall_s
            status = await _status(pool)
    tokens = sum(answer.tokens for answer in answers if not answer.error)
    return {
        "tokens_per_s": tokens / wall_s,
        "cores": cores,
        "errors": [answer.error for answer in answers if answer.error],
        "codecs": status["codecs"],
        "codec_checks": status["codec_checks"],
    }


async def _status(pool: LivePool) -> Any:
    response: httpx.Response = await pool.client.get("/admin/status", headers=pool.operator)
    return response.raise_for_status().json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=3, help="of each pool")
    parser.add_argument("--json", type=Path, help="where to write the record; parts that are there stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        record = record_parts(
            arguments.json,
            {"benchmark": "codecs", "method": __doc__ or ""},
            arguments.parts,
            lambda part: PARTS[part](home, arguments.repetitions),
            {"torch": torch.__version__},
            CLAIMED,
        )
    for part in arguments.parts:
        print(part, record[part]["result"])


PARTS: dict[str, Callable[[Path, int], Any]] = {
    "speed": lambda home, repetitions: speed(),
    "quality": lambda home, repetitions: quality(home),
    "link": lambda home, repetitions: asyncio.run(link(home, repetitions)),
}
CLAIMED: dict[str, Callable[[Any], dict[str, float]]] = {
    "quality": lambda result: {
        "ring.5.agreement": 100 * result["tiny"]["codecs"]["int8"]["agreement"],
        "ring.5.divergence": result["tiny"]["codecs"]["int8"]["divergence"],
    },
    "link": lambda result: {"ring.5.link": result["times"]},
}
if __name__ == "__main__":
    main()
