"""One rank of the yardstick of `slow_links`: `torch.distributed.pipelining` over gloo, and sums by `all_reduce`.

    python benchmarks/slow_links_torch.py RANK STAGES PIPELINES ADDRESS SHARE LENGTH

Reads one order a line on stdin, `{"schedule": "1f1b", "dtype": "float32", "microbatches": 8, "steps": 3}`, and says how
long each step took. SHARE is that of this machine which the rank computes at, slowed as Muster slows its own. With
`bfloat16` hidden states, their gradients and the sums of gradients travel as that.
"""

import json
import os
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks.slow_links_model import DEVICE, model_config
from muster.node.runners.thread import slowed

PORT = 29_511
PATIENCE = timedelta(minutes=20)
SCHEDULES = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


class Part(nn.Module):
    """Layers of a Llama from ids or hidden states to hidden states or logits."""

    def __init__(self, stage: int, stages: int, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = model_config(layers=stages)
        whole = AutoModelForCausalLM.from_config(config)
        self.first, self.last, self.dtype = stage == 0, stage == stages - 1, dtype
        self.embed = whole.model.embed_tokens if self.first else None
        self.layer = whole.model.layers[stage]
        self.rotary = whole.model.rotary_emb
        self.norm = whole.model.norm if self.last else None
        self.to_logits = whole.lm_head if self.last else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) if self.embed is not None else x.float()
        positions = torch.arange(hidden.shape[1])[None]
        made = self.layer(hidden, position_embeddings=self.rotary(hidden, positions))
        hidden = made[0] if isinstance(made, tuple) else made
        if self.norm is not None and self.to_logits is not None:
            return self.to_logits(self.norm(hidden))
        return hidden.to(self.dtype)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


class Rank:
    def __init__(self, rank: int, stages: int, pipelines: int, share: float, length: int) -> None:
        self.stage, self.stages, self.pipelines, self.share, self.length = (
            rank % stages, stages, pipelines, share, length,
        )  # fmt: skip
        rows = [[pipeline * stages + stage for stage in range(stages)] for pipeline in range(pipelines)]
        columns = [[row[stage] for row in rows] for stage in range(stages)]
        # Every rank makes every group, in the same order.
        self.chain = [dist.new_group(row) for row in rows][rank // stages]
        self.same_stage = [dist.new_group(column) for column in columns][self.stage]

    def run(self, schedule: str, dtype: str, microbatches: int, steps: int) -> list[float]:
        narrow = getattr(torch, dtype)
        part = Part(self.stage, self.stages, narrow)
        optimizer = torch.optim.AdamW(part.parameters(), lr=1e-3)
        stage = PipelineStage(part, self.stage, self.stages, torch.device("cpu"), group=self.chain)
        for name in ("forward_one_chunk", "backward_one_chunk"):
            setattr(stage, name, self._slowed(getattr(stage, name)))
        plan = SCHEDULES[schedule](stage, n_microbatches=microbatches, loss_fn=loss_of)
        seconds = []
        for _ in range(steps):
            began_s = time.perf_counter()
            self._step(part, plan, optimizer, narrow, microbatches)
            seconds.append(time.perf_counter() - began_s)
        return seconds

    def _step(self, part: Part, plan: Any, optimizer: torch.optim.Optimizer, narrow: torch.dtype, count: int) -> None:
        optimizer.zero_grad()
        ids = torch.randint(0, 256, (count, self.length + 1))
        if part.first:
            plan.step(ids[:, :-1])
        elif part.last:
            plan.step(target=ids[:, 1:], losses=[])
        else:
            plan.step()
        parameters = [one for one in part.parameters() if one.grad is not None]
        flat = torch.cat([one.grad.flatten() for one in parameters]).to(narrow)
        dist.all_reduce(flat, group=self.same_stage)
        flat = flat.float() / self.pipelines
        squared = flat.double().square().sum()
        dist.all_reduce(squared)
        scale = min(1.0, 1.0 / (float(squared / self.pipelines) ** 0.5 + 1e-6))
        for one, gradient in zip(parameters, flat.split([one.numel() for one in parameters]), strict=True):
            one.grad = gradient.view_as(one) * scale
        slowed(optimizer.step, self.share)

    def _slowed(self, work: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            return slowed(partial(work, *given, **named), self.share)

        return run


def main() -> None:
    rank, stages, pipelines = map(int, sys.argv[1:4])
    address, share, length = sys.argv[4], float(sys.argv[5]), int(sys.argv[6])
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": DEVICE}
    dist.init_process_group("gloo", rank=rank, world_size=stages * pipelines, timeout=PATIENCE)
    here = Rank(rank, stages, pipelines, share, length)
    print(json.dumps({"ready": rank}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps({"seconds": here.run(**order)}), flush=True)


if __name__ == "__main__":
    main()
