"""What does the way through the door cost, beside the engine in process?

The same requests go to a pool over HTTP (this process asks, a head answers, a worker holds the whole model and is
joined over QUIC on loopback) and to an engine in this process, in turns within one run, each time with prompts that
nobody has seen before. Both decode greedily on one thread.

    first-byte   64 requests of 4096 tokens of text at once: time to the first byte of each answer, against the time to
                 the first token of each from the engine. The tokens of the text are made by the head
    streams      64 streams of 128 tokens: tokens per second over HTTP and from the engine, the processor's seconds of
                 everybody for them, and of the head alone. The engine then runs once more beside a process that only
                 keeps a core busy: what it loses there, no door can get back
    dense        the same with a model of some 40 million parameters, whose steps take longer

    python benchmarks/door.py first-byte streams dense --json FILE
    python benchmarks/door.py streams --small
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.forecast_models import folder_of, shape_in
from benchmarks.records import record_parts
from benchmarks.workload import llama
from muster.lab.processes import Child, Lab, WorkerSpec
from muster.lab.rehearsal import is_event
from muster.model.load import load_stage
from muster.model.stage import Stage
from muster.model.weights import open_directory
from muster.serve.engine import Engine
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.small_tokenizers import save, train_byte_level

PAGE_SIZE = 32
PREFILL_TOKENS = 512
WORKER_BYTES = 3 * 2**30
BOOT_S = 600.0
CONTEXT = 4608


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests at once."""

    requests: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    context: int = CONTEXT


LOADS = {"first-byte": Load(64, 4096, 2, 3), "streams": Load(64, 32, 128, 5), "dense": Load(64, 32, 128, 3, 2048)}
SMALL = {"first-byte": Load(8, 1024, 2, 1), "streams": Load(64, 16, 32, 2), "dense": Load(64, 16, 16, 1, 2048)}


@dataclass(frozen=True, slots=True)
class Ran:
    """One round on one side."""

    wall_s: float
    cpu_s: float
    first_s: tuple[float, ...]
    tokens: int
    head_cpu_s: float = 0.0

    def figures(self) -> dict[str, float]:
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "tokens_per_s": self.tokens / self.wall_s,
            "tokens_per_cpu_s": self.tokens / self.cpu_s,
            "first_median_s": statistics.median(self.first_s),
            "first_last_s": max(self.first_s),
            "head_cpu_s_per_1000_tokens": 1000 * self.head_cpu_s / self.tokens,
        }


def model_directory(part: str, folder: Path) -> Path:
    """A random Llama: the dense one, or a small one whose context holds the long prompts."""
    if part == "dense":
        return Path(folder_of(part, folder))
    model = llama(128, 4, train_byte_level().get_vocab_size())
    model.config.max_position_embeddings = CONTEXT
    model.config.eos_token_id = 0
    path = save(train_byte_level(), folder / "model")
    model.save_pretrained(path)
    return path


def texts(tokenizer: Tokenizer, load: Load, seed: int) -> list[str]:
    """Texts of as many tokens as asked, or one less, none of which begins as another."""
    draw = random.Random(seed)
    words = ["fox", "dog", "main", "return", "def", "quick", "lazy", "x", "the", "brown"]

    def text(index: int) -> str:
        written = f"{seed} {index} " + " ".join(draw.choices(words, k=2 * load.prompt_tokens))
        ids = tokenizer.encode(written)[: load.prompt_tokens]
        return tokenizer.decode(ids)

    return [text(index) for index in range(load.requests)]


def in_process(stage: Stage, tokenizer: Tokenizer, load: Load, prompts: Sequence[str]) -> Ran:
    sampling = Sampling(max_tokens=load.new_tokens, temperature=0.0, ignore_eos=True)
    requests = [Request(f"r{i}", tuple(tokenizer.encode(text)), sampling) for i, text in enumerate(prompts)]
    pages = sum(-(-(len(one.prompt) + load.new_tokens) // PAGE_SIZE) for one in requests) + len(requests)
    options = EngineOptions(load.context, prefill_tokens=PREFILL_TOKENS, max_batch=load.requests)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    engine = Engine(stage, stage.new_cache(pages, PAGE_SIZE), options=options)
    for one in requests:
        engine.submit(one)
    first: dict[str, float] = {}
    tokens = 0
    while engine.has_work:
        for progress in engine.step().progress:
            tokens += len(progress.tokens)
            first.setdefault(progress.request_id, time.perf_counter() - began_s)
    wall_s = time.perf_counter() - began_s
    return Ran(wall_s, time.process_time() - began_cpu_s, tuple(first.values()), tokens)


async def over_http(address: tuple[str, int], children: Sequence[Child], load: Load, prompts: Sequence[str]) -> Ran:
    processes = [psutil.Process(), *(psutil.Process(child.process.pid) for child in children)]
    family = [one for process in processes for one in (process, *process.children(recursive=True))]
    family = list({one.pid: one for one in family}.values())
    head = psutil.Process(children[0].process.pid)
    before, head_before_s = sum(map(_cpu_s, family)), _cpu_s(head)
    began_s = time.perf_counter()
    first = await asyncio.gather(*(stream(address, load, text, began_s) for text in prompts))
    wall_s = time.perf_counter() - began_s
    cpu_s, head_cpu_s = sum(map(_cpu_s, family)) - before, _cpu_s(head) - head_before_s
    return Ran(wall_s, cpu_s, tuple(first), load.requests * load.new_tokens, head_cpu_s)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


async def stream(address: tuple[str, int], load: Load, text: str, began_s: float) -> float:
    """One answer, over a connection of its own; when its first event came. Reads bytes and no more: the client's work
    is not what is measured."""
    fields = {"model": "model", "prompt": text, "max_tokens": load.new_tokens, "temperature": 0, "ignore_eos": True}
    body = json.dumps({**fields, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}"
    )
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
        answer, first_s = bytearray(), 0.0
        while piece := await reader.read(1 << 16):
            answer += piece
            if not first_s and b"data: " in answer:
                first_s = time.perf_counter() - began_s
    finally:
        writer.close()
    counted = f'"completion_tokens":{load.new_tokens}'.encode()
    assert counted in answer.replace(b": ", b":"), bytes(answer[:400])
    return first_s


async def measure(part: str, load: Load) -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = model_directory(part, folder)
        tokenizer = load_tokenizer(path)
        layers = shape_in(str(path)).num_layers
        stage = load_stage(open_directory(path), 0, layers, torch.float32, torch.device("cpu"))
        async with Lab(folder) as lab:
            head = await lab.head(str(path), "--dtype", "float32", "--served-model-name", "model")
            ready = await head.wait_for("its address", is_event("listening"), BOOT_S)
            await lab.worker(WorkerSpec("worker", "home", WORKER_BYTES), ready["ticket"])
            await head.wait_for("a pipeline", is_event("placed"), BOOT_S)
            host, port = ready["url"].removeprefix("http://").rsplit(":", 1)
            await over_http(
                (host, int(port)), lab.children, Load(2, 16, 4, 1), texts(tokenizer, Load(2, 16, 4, 1), 999)
            )
            rounds = []
            for number in range(load.rounds):
                prompts = texts(tokenizer, load, number)
                http = await over_http((host, int(port)), lab.children, load, prompts)
                engine = in_process(stage, tokenizer, load, prompts)
                rounds.append({"http": http.figures(), "engine": engine.figures()})
                print(f"{part} {number + 1}: {json.dumps(rounds[-1])}", flush=True)
        beside = beside_a_busy_core(stage, tokenizer, load, prompts) if part != "first-byte" else {}
        tokenizer.close()
    return {"rounds": rounds, **ratios(rounds), **beside}


def beside_a_busy_core(stage: Stage, tokenizer: Tokenizer, load: Load, prompts: Sequence[str]) -> dict[str, float]:
    """What part of its tokens per second the engine keeps while another core is busy with nothing."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside = in_process(stage, tokenizer, load, prompts)
    finally:
        busy.kill()
        busy.wait()
    alone = in_process(stage, tokenizer, load, prompts)
    return {"engine_beside_a_busy_core": alone.wall_s / beside.wall_s}


def ratios(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians over the rounds of what one side has for the other's one."""

    def median(figure: str) -> float:
        return statistics.median(one["http"][figure] / one["engine"][figure] for one in rounds)

    return {figure: median(figure) for figure in ("tokens_per_s", "tokens_per_cpu_s", "first_median_s")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(LOADS))
    parser.add_argument("--small", action="store_true", help="a minute on a busy machine")
    parser.add_argument("--json", type=Path, help="where to keep the record")
    arguments = parser.parse_args()
    loads = SMALL if arguments.small else LOADS
    record_parts(
        arguments.json,
        {"benchmark": "door", "method": __doc__ or ""},
        arguments.parts,
        lambda part: asyncio.run(measure(part, loads[part])),
        {"size": "small" if arguments.small else "full"},
        {
            "first-byte": lambda found: {"door.4": found["first_median_s"]},
            "streams": lambda found: {"door.5": found["tokens_per_s"]},
            "dense": lambda found: {"door.6": found["tokens_per_s"]},
        },
    )


if __name__ == "__main__":
    main()
