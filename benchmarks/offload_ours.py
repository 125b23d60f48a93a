"""One run of a stage of Muster that offloads, in a process of its own, for `offload.py`.

    python offload_ours.py MODEL FOLDER '{"batch": 192, "context": 96, "steps": 3, ...}'

Each of `batch` sequences has `context` tokens in its cache, of random content, and gets `steps` more. Prints JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from muster.model.weights import open_directory
from muster.node.memory import spread_little
from muster.offload.load import load_offloaded
from muster.offload.microbatches import PieceLimits
from muster.offload.pages import TieredCache
from muster.offload.stage import DiskRoom, WeightStreamOptions
from muster.serve.run import run_step
from muster.serve.sampling import Sampler
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import Admit, Row, Step

PAGE = 16


def main() -> None:
    model, folder, text = sys.argv[1:]
    print(json.dumps(run(Path(model), Path(folder), json.loads(text))))


def run(model: Path, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    spread_little()
    torch.set_num_threads(2)
    batch, context, steps = asked["batch"], asked["context"], asked["steps"]
    options = WeightStreamOptions(
        limits=PieceLimits(asked["microbatch"], 512),
        waits=asked.get("waits", "bytes"),
        staging_bytes=asked["staging_bytes"],
    )
    weights = open_directory(model)
    layers = json.loads(weights.config_json)["num_hidden_layers"]
    room = DiskRoom(folder, 10**12)
    stage, stream = load_offloaded(
        weights, 0, layers, torch.bfloat16, torch.device("cpu"), asked.get("share", 0.0), room, options
    )
    each = -(-(context + steps) // PAGE)
    pages = batch * each
    near = int(asked.get("near", 0.0) * pages)
    cache = TieredCache(stage.head_sizes, pages, near, PAGE, stage.dtype, stage.device, folder, 10**12)
    sampler = Sampler(None)
    tokens = torch.randint(3, 1000, (batch,), generator=torch.Generator().manual_seed(0))
    seconds, waited_s, read = [], [], []
    blocks = [range(first, min(first + asked["block"], batch)) for first in range(0, batch, asked["block"])]
    number = 0
    for step in range(steps):
        began_s, waited, before = time.perf_counter(), stream.stats.waited_s, stream.reader.read_bytes
        for block in blocks:
            rows = tuple(
                Row(
                    index,
                    context + step,
                    1,
                    tuple(range(index * each, index * each + -(-(context + step + 1) // PAGE))),
                    1,
                )
                for index in block
            )
            admit = tuple(Admit(index, (3,) * (context + 1), context + 1, Sampling(temperature=0.0)) for index in block)
            message = Step(epoch=0, sequence=number, rows=rows, admit=admit if step == 0 else ())
            done = run_step(stage, cache, sampler, message, tokens[list(block)])
            tokens[list(block)] = torch.tensor([one.token for one in done.sampled])
            number += 1
        seconds.append(time.perf_counter() - began_s)
        waited_s.append(stream.stats.waited_s - waited)
        read.append(stream.reader.read_bytes - before)
    return {"steps_s": seconds, "waited_s": waited_s, "read_bytes": read, "restarts": stream.stats.restarts}


if __name__ == "__main__":
    main()
