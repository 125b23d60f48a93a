"""Is `--memory` kept? Resident memory of real processes, measured from outside while they serve.

python benchmarks/memory.py [--settings 20] [--seed 0] [--json FILE]

Each setting is drawn from the seed: so much memory lent, by a worker that joins or by the head itself, a model, a
dtype, and requests of some length, several at once. A peak is the sum of `VmHWM` (what the system says was the most)
over the process and all that it has started, so it may be higher than what was ever taken at one time, never lower.

A setting that is refused, because Muster itself takes more here before it holds a layer, is counted apart.

idle-worker   a worker that holds the embedded model and has answered nothing yet
head          a head that does not compute, with a cache of its own, so that it checks the model for the first time.
              The check has a process of its own, which ends before the door opens and is not counted: its peak stands
              beside.
stop          Ctrl-C until the process is gone: the worker while the head is there, then the head
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts

MB = 10**6
LOOK_EVERY_S = 0.05
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Setting:
    memory_mb: int
    model: str = "tiny"
    dtype: str = "bfloat16"
    local: bool = False
    """Lent by the head itself."""
    requests: int = 4
    prompt_characters: int = 600
    max_tokens: int = 16


class Refused(Exception):
    """So little cannot be promised; the sentence says how much can be."""


@dataclass
class Watched:
    """A `muster` process, its events, and the most that it and its children have taken."""

    process: "subprocess.Popen[str]"
    peaks: dict[int, int]
    """Process id -> bytes."""
    ended: threading.Event

    def look(self) -> None:
        for one in family(self.process.pid):
            self.peaks[one] = max(self.peaks.get(one, 0), status_bytes(one, "VmHWM"))

    def keep_looking(self) -> None:
        while not self.ended.wait(LOOK_EVERY_S):
            self.look()

    def until(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        last = ""
        for last in self.process.stdout:
            event: dict[str, Any] = json.loads(last)
            if event.get("event") == name:
                return event
            if event.get("error", {}).get("code") == "invalid_request":
                raise Refused(event["error"]["message"])
        raise RuntimeError(f"It ended before it said {name}; the last that it said: {last}")

    @property
    def peak_bytes(self) -> int:
        self.look()
        return sum(self.peaks.values())

    @property
    def own_peak_bytes(self) -> int:
        self.look()
        return self.peaks[self.process.pid]

    @property
    def resident_bytes(self) -> int:
        return sum(status_bytes(one, "VmRSS") for one in family(self.process.pid))

    def stop_s(self) -> float:
        """How long one Ctrl-C takes."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=PATIENCE_S)
        return time.monotonic() - began_s


def family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def status_bytes(pid: int, name: str) -> int:
    """A line of /proc/PID/status; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Watched]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "muster.cli.main", *words, "--data-dir", str(folder), "--json"]
    environment = os.environ | {"MUSTER_CACHE": str(folder / "cache"), "MUSTER_LOG": "error"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        watched = Watched(process, {}, threading.Event())
        watching = threading.Thread(target=watched.keep_looking, daemon=True)
        watching.start()
        try:
            yield watched
        finally:
            watched.ended.set()
            watching.join()
            process.kill()


def tried(setting: Setting, folder: Path) -> dict[str, float]:
    """Serve under a setting; what was seen, in MB and seconds."""
    words = ["serve", setting.model, "--port", "0", "--dtype", setting.dtype]
    if setting.local:
        with running(folder / "head", *words, "--memory", f"{setting.memory_mb}MB") as head:
            door = head.until("listening")
            head.until("placed")
            answer(door, setting)
            return {"peak_mb": head.peak_bytes / MB}
    with running(folder / "head", *words, "--no-local-worker") as head:
        door = head.until("listening")
        join = ("join", door["ticket"], "--memory", f"{setting.memory_mb}MB", "--name", "one")
        with running(folder / "worker", *join) as worker:
            worker.until("serving")
            head.until("placed")
            idle = worker.resident_bytes
            answer(door, setting)
            time.sleep(1.5)  # the head hears of the end of a request with the next heartbeat
            peak, stop_s = worker.peak_bytes, worker.stop_s()
        return {
            "peak_mb": peak / MB,
            "idle_mb": idle / MB,
            "worker_stop_s": stop_s,
            "head_peak_mb": head.own_peak_bytes / MB,
            "head_and_children_mb": head.resident_bytes / MB,
            "head_stop_s": head.stop_s(),
        }


def answer(door: dict[str, Any], setting: Setting) -> None:
    """All requests at once, to their ends."""
    body = {
        "model": door["model"],
        "prompt": ("def f(x):\n    return x + 1\n\n" * 1000)[: setting.prompt_characters],
        "max_tokens": setting.max_tokens,
        "temperature": 0.9,
        "top_p": 0.9,
    }

    def one(seed: int) -> None:
        data = json.dumps(body | {"seed": seed}).encode()
        request = urllib.request.Request(f"{door['url']}/v1/completions", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            reply.read()

    with ThreadPoolExecutor(setting.requests) as together:
        list(together.map(one, range(setting.requests)))


def drawn(seed: int, models: list[str]) -> Setting:
    chance = random.Random(seed)
    model = chance.choice(models)
    least = 560 if model == "tiny" else 900
    return Setting(
        memory_mb=chance.randint(least, 1600),
        model=model,
        dtype=chance.choice(["bfloat16", "float32"]) if model == "tiny" else "bfloat16",
        local=chance.random() < 0.25,
        requests=chance.choice([1, 4, 16, 32]),
        prompt_characters=chance.randint(10, 1200),
        max_tokens=chance.choice([1, 16, 48]),
    )


def larger_model(folder: Path) -> str:
    """Random weights of about 150 MB, with the vocabulary of the embedded model."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from muster.model.source import resolve

    tiny = resolve("tiny")
    own = json.loads((tiny / "config.json").read_text())
    config = LlamaConfig(
        vocab_size=own["vocab_size"], hidden_size=1024, intermediate_size=2816, num_hidden_layers=6,
        num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for file in tiny.glob("*token*.json"):
        shutil.copy(file, folder)
    return str(folder)


def measure(settings: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        models = ["tiny", "tiny", larger_model(Path(folder) / "larger")]
        found = []
        for number in range(settings):
            setting = drawn(seed + number, models)
            try:
                run = asdict(setting) | tried(setting, Path(folder) / str(number))
            except Refused as refused:
                run = asdict(setting) | {"refused": str(refused)}
            run["model"] = Path(setting.model).name
            print(json.dumps(run), file=sys.stderr, flush=True)
            found.append(run)
    joined = [run for run in found if not run["local"] and "refused" not in run]
    return {
        "runs": found,
        "above": sum(run.get("peak_mb", 0.0) > run["memory_mb"] for run in found),
        "refused": sum("refused" in run for run in found),
        "idle_worker_mb": max((run["idle_mb"] for run in joined if run["model"] == "tiny"), default=0.0),
        "head_mb": max((run["head_peak_mb"] for run in joined), default=0.0),
        "stop_s": statistics.median([run[stop] for run in joined for stop in ("worker_stop_s", "head_stop_s")]),
        "longest_stop_s": max(run[stop] for run in joined for stop in ("worker_stop_s", "head_stop_s")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record = record_parts(
        arguments.json,
        {"benchmark": "memory", "method": __doc__ or ""},
        ["settings"],
        lambda part: measure(arguments.settings, arguments.seed),
        {"note": arguments.note},
        {
            "settings": lambda found: {
                "faults.7.promise": found["above"],
                "faults.7.idle-worker": round(found["idle_worker_mb"], 1),
                "faults.7.head": round(found["head_mb"], 1),
                "faults.7.stop": round(found["longest_stop_s"], 2),
            }
        },
    )
    print(json.dumps(record["settings"]["result"], indent=1))


if __name__ == "__main__":
    main()
