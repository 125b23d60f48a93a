"""A run over a pool is a run as any other: its checkpoints go on here, those of a single machine go on there."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from muster.broker.members.trust import TrustOptions
from muster.broker.state import BrokerOptions
from muster.errors import PoolUnavailable, Unsupported
from muster.head.training import PoolRunning, TrainingHead, TrainingPool
from muster.link.base import Endpoint
from muster.link.memory import MemoryNetwork
from muster.node.lending import WorkerOptions
from muster.node.process import door_of
from muster.node.worker import Worker
from muster.spec.training import LoraTable
from muster.train.run import PreparedRun
from muster.wire.ticket import Ticket
from tests.flows.live_pool import LEASES, identity_of, made_up
from tests.flows.training_pool import ROOM_BYTES, with_steps
from tests.train.runs import prepared, running, weights


def over_a_pool(run: PreparedRun, folder: Path, machines: int, join: int | None = None) -> PoolRunning:
    """Of `machines` wanted, `join` come, or all."""
    network = MemoryNetwork()
    broker = BrokerOptions(leases=LEASES, trust=TrustOptions(everybody=True))

    async def open_endpoint() -> Endpoint:
        return network.endpoint(identity_of("head").node_id)

    async def ready(head: TrainingHead, ticket: Ticket) -> None:
        workers = []
        for number in range(machines if join is None else join):
            options = WorkerOptions(
                name=f"machine-{number}", cache_dir=folder / f"machine-{number}", memory_cap_bytes=ROOM_BYTES
            )
            endpoint = network.endpoint(identity_of(f"machine-{number}").node_id)
            workers.append(Worker(endpoint, door_of(ticket), options, measure=made_up))
        await asyncio.gather(*(worker.run() for worker in workers))

    pool = TrainingPool(machines, broker=broker)
    return PoolRunning(run, folder / "head", pool, open_endpoint, ready, lambda words: None)


def test_a_run_goes_on_from_a_pool_to_one_machine_and_back(tmp_path: Path) -> None:
    def start() -> PreparedRun:
        return with_steps(prepared(tmp_path, None), stages=2)

    alone = running(replace(prepared(tmp_path, None), out=tmp_path / "other"))
    expected = [alone.step().loss for _ in range(6)]
    losses = []
    pool = over_a_pool(start(), tmp_path, machines=2)
    try:
        losses += [pool.step().loss for _ in range(2)]
        assert pool.facts()["pipelines"] == 1
        kept = pool.save()
    finally:
        pool.close()
    model = AutoModelForCausalLM.from_pretrained(kept, dtype=torch.float32)
    here = running(prepared(tmp_path, None))
    assert here.done == 2
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights(here).items())
    losses += [here.step().loss for _ in range(2)]
    here.save()
    pool = over_a_pool(start(), tmp_path, machines=2)
    try:
        assert pool.done == 4
        losses += [pool.step().loss for _ in range(2)]
        out = pool.finish()
    finally:
        pool.close()
    assert losses == pytest.approx(expected, rel=1e-5)
    ended = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    assert all(torch.allclose(ended[name], tensor, rtol=0, atol=1e-5) for name, tensor in weights(alone).items())


def test_ctrl_c_ends_the_wait_for_machines(tmp_path: Path) -> None:
    pool = over_a_pool(with_steps(prepared(tmp_path), stages=2), tmp_path, machines=2, join=1)
    try:
        pool.stop_when(lambda: True)
        with pytest.raises(PoolUnavailable, match="run again to go on from the last checkpoint"):
            pool.step()
    finally:
        pool.close()


def test_adapters_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    run = replace(run, run=run.run.model_copy(update={"lora": LoraTable()}))
    with pytest.raises(Unsupported, match="leave out --pool"):
        over_a_pool(run, tmp_path, machines=1)
