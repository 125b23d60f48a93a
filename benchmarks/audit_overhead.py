"""What receipts cost a ring that serves: the same stages, in one process and with the threads that a node gives them,
with receipts and without, window by window in turn.

Each ring answers the same requests, four at a time in each of its windows; whoever is first takes turns, too. Of each
pair of windows the ratio of tokens per second is taken, and of tokens per second of the processor, which says the same
with less of what else happens on the machine. Beside that stand the processor's seconds in which receipts were noted
and signed, as a part of all, and the bytes that the head was told and that a neighbour was.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.audit_rings import CPU
from benchmarks.forecast_models import folder_of
from muster.compress.registry import PLAIN
from muster.link.identity import Identity
from muster.model.load import load_stage
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.node.runners.base import Runner
from muster.node.runners.serve.first import FirstStage
from muster.node.runners.serve.later import LaterStage
from muster.node.runners.serve.receipts import RingReceipts, Signer, Watched
from muster.node.runners.serve.ring import RingPlace
from muster.node.runners.thread import ComputeThread
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.verify.receipts import ReceiptRing, RequestReceipts
from muster.wire.messages.generate import Submit, Tokens
from muster.wire.messages.receipts import Receipts

CUTS = (0, 2, 4, 6, 8)
BATCH, PROMPT, NEW, PAGE = 8, 64, 128, 16
HEAD = "f" * 64
IDS = [Identity.from_secret(bytes([number]) * 32) for number in range(1, len(CUTS))]


@dataclass
class Costs:
    """Of receipts, in the ring that has them."""

    seconds: float = 0.0
    """Of the processor, to note and to sign."""
    told: list[Receipts] = field(default_factory=list)
    neighbour_bytes: int = 0


class Timed(RingReceipts):
    costs = Costs()

    def note(self, *args: Any) -> None:
        began = time.thread_time()
        super().note(*args)
        self.costs.seconds += time.thread_time() - began

    def values(self, *args: Any) -> bytes:
        began = time.thread_time()
        found = super().values(*args)
        self.costs.seconds += time.thread_time() - began
        return found

    def _sign(self, heard: Any) -> Any:
        began = time.thread_time()
        found = super()._sign(heard)
        self.costs.seconds += time.thread_time() - began
        return found


class Ring:
    """`answer` some requests; `signs` says whether there are receipts."""

    def __init__(self, stages: Sequence[Any], signs: bool) -> None:
        self.signs, self.epoch, self.costs = signs, 1 + signs, Costs()
        self.runners: list[Runner] = []
        self._done: dict[str, asyncio.Event] = {}
        for index, stage in enumerate(stages):
            self.runners.append(self._runner(index, stage))
        self._tasks = [asyncio.create_task(runner.run()) for runner in self.runners]

    def _runner(self, index: int, stage: Any) -> Runner:
        count, me, behind = len(CUTS) - 1, IDS[index].node_id, (index + 1) % (len(CUTS) - 1)
        send, to_last = partial(self._pass, me, behind), partial(self._pass, me, count - 1)
        place = RingPlace(
            self.epoch, HEAD, IDS[index - 1].node_id, send, IDS[0].node_id, index == count - 1,
            to_last if index == 0 else None, 64,
        )  # fmt: skip
        receipts = None
        if self.signs:
            behind_id = HEAD if place.is_last else IDS[behind].node_id
            layers = (stage.dtype_name, CUTS[index], CUTS[index + 1])
            receipts = Timed(place, Signer(IDS[index], "ab" * 32, *layers, behind_id, self.costs.told.append))
            receipts.costs = self.costs
        thread, inner = ComputeThread(self.epoch, lambda: 1.0), stage.inner
        cache = inner.new_cache(4 * BATCH * (PROMPT + NEW) // PAGE, PAGE)
        if index == 0:
            options = EngineOptions(
                1024, num_microbatches=2, max_microbatches=2, max_batch=BATCH // 2, epoch=self.epoch
            )  # fmt: skip
            engine: Engine[Any] = Engine(inner, cache, options=options)
            return FirstStage(place, engine, PLAIN.encode, thread, receipts)
        watched = Watched(inner) if self.signs and place.is_last else None
        follower: Follower[Any] = Follower(watched or inner, cache, self.epoch)
        return LaterStage(place, follower, PLAIN.decode, PLAIN.encode, thread, receipts, watched)

    def _pass(self, source: str, target: int, message: Any, payload: Any) -> None:
        if isinstance(message, Receipts):
            self.costs.neighbour_bytes += len(msgspec.msgpack.encode(message))
        kept = bytes(payload)  # as a wire would
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: self.runners[target].receive(source, message, memoryview(bytearray(kept)), _nobody))

    async def answer(self, seed: int) -> int:
        """Tokens."""
        generator, tokens = torch.Generator().manual_seed(seed), 0
        left = BATCH
        over = asyncio.Event()

        def heard(message: Any, payload: Any) -> None:
            nonlocal tokens, left
            assert isinstance(message, Tokens), message
            for progress in message.progress:
                tokens += len(progress.tokens)
                left -= progress.finish is not None
            if not left:
                over.set()

        for number in range(BATCH):
            prompt = torch.randint(3, 4000, (PROMPT,), generator=generator).tolist()
            request = Request(f"{seed}-{number}", tuple(prompt), Sampling(max_tokens=NEW, seed=seed + number))
            self.runners[0].receive(HEAD, Submit(epoch=self.epoch, request=request), b"", heard)
        await over.wait()
        return tokens

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runner in self.runners:
            await runner.close()


@dataclass
class _Loaded:
    inner: Any
    dtype_name: str


def _nobody(message: Any, payload: Any) -> None:
    pass


def overhead(home: Path, pairs: int, dtype: str = "float32") -> dict[str, Any]:
    weights = open_directory(resolve(folder_of("dense", home)))
    stages = [
        _Loaded(load_stage(weights, first, last, getattr(torch, dtype), CPU), dtype) for first, last in pairwise(CUTS)
    ]
    return asyncio.run(_overhead(stages, pairs))


async def _overhead(stages: Sequence[Any], pairs: int) -> dict[str, Any]:
    rings = [Ring(stages, signs) for signs in (False, True)]
    for ring in rings:
        await ring.answer(0)  # a warm-up
    await asyncio.sleep(2)
    with_receipts = rings[1].costs
    with_receipts.seconds, with_receipts.neighbour_bytes = 0.0, 0
    with_receipts.told.clear()
    wall, cpu, signing_cpu_s = [], [], 0.0
    for pair in range(1, pairs + 1):
        found = {}
        for ring in rings if pair % 2 else rings[::-1]:
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            tokens = await ring.answer(pair)
            took_s = time.perf_counter() - began_s
            if ring.signs:
                await asyncio.sleep(2)  # what is signed behind the last token counts, and must not meet the other ring
            used_s = time.process_time() - began_cpu_s
            found[ring.signs] = (tokens / took_s, tokens / used_s)
            signing_cpu_s += used_s if ring.signs else 0.0
        wall.append(found[True][0] / found[False][0])
        cpu.append(found[True][1] / found[False][1])
        print(f"pair {pair}: wall {wall[-1]:.4f}, processor {cpu[-1]:.4f}", flush=True)
    share = with_receipts.seconds / signing_cpu_s
    sizes = _sizes(with_receipts, pairs)
    for ring in rings:
        await ring.close()
    return {
        "pairs": pairs,
        "model": "dense, 40 M parameters, 8 layers of width 512 in 4 stages, float32",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "speed_with": round(statistics.median(wall), 4),
        "speed_with_all": [round(one, 4) for one in wall],
        "processor_with": round(statistics.median(cpu), 4),
        "processor_with_all": [round(one, 4) for one in cpu],
        "processor_share": round(share, 5),
        **sizes,
    }


def _sizes(costs: Costs, pairs: int) -> dict[str, Any]:
    """Everything is checked as a head would, and counted."""
    nodes = tuple(one.node_id for one in IDS)
    ring, kept = ReceiptRing(2, HEAD, nodes, CUTS, "ab" * 32, "float32"), dict[bytes, RequestReceipts]()
    for message in costs.told:
        for one in message.signed:
            receipts = kept.setdefault(one.request, RequestReceipts(one.request))
            sender, receiver = ring.ends(one.layer)
            receipts.add(ring, receiver if one.received else sender, one)
    findings = [one for receipts in kept.values() for one in receipts.findings()]
    hidden = [one for one in findings if one.layer < CUTS[-1]]
    positions = sum(one.end - one.start for one in findings)
    nbytes = sum(len(msgspec.msgpack.encode(message)) for message in costs.told)
    return {
        "requests": len(kept),
        "problems": sum(bool(one.problem) for one in findings),
        "unsigned_by_receivers": sum(one.end - one.start - one.both for one in hidden),
        "expected_positions": pairs * BATCH * (3 * (PROMPT + NEW - 1) + NEW),
        "positions": positions,
        "head_bytes_per_block": round(nbytes / positions * 32, 1),
        "neighbour_bytes_per_block": round(costs.neighbour_bytes / sum(o.end - o.start for o in hidden) * 32, 1),
    }


def claimed(found: dict[str, Any]) -> dict[str, float]:
    return {
        "proof.3.speed": round(100 * (1 - found["processor_with"]), 3),
        "proof.3.share": round(100 * found["processor_share"], 3),
        "proof.3.bytes": found["head_bytes_per_block"],
        "proof.3.problems": found["problems"] + found["unsigned_by_receivers"],
    }
