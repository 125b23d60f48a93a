"""What a training run will take on this machine, told before it starts: memory, and seconds a step. Trains nothing."""

from collections.abc import Sequence
from pathlib import Path

import torch

from muster.cli.options import format_bytes
from muster.cost.measured import constants_of
from muster.cost.training_memory import TrainingOptions, training_memory
from muster.errors import DoesNotFit
from muster.node.devices import pick_device
from muster.node.measure import free_memory_bytes, measure_device
from muster.plan.train.memory import in_flight
from muster.sim.train.forecast import train_forecast
from muster.spec.forecast import TrainForecast
from muster.spec.plan import Pipeline, Plan, Stage, TrainSettings
from muster.spec.pool import LinkSpeed, Node, Pool
from muster.train.local import cuts
from muster.train.run import PreparedRun

BETWEEN_DEVICES = LinkSpeed(latency_s=2e-5, bandwidth_bytes_per_s=1e10)
"""Two devices of one machine, through its memory."""


def devices_of(wanted: str, stages: int) -> list[torch.device]:
    """A device for each stage as far as there are any. Raises `MachineTrouble` on one that is not there."""
    device = pick_device(wanted)
    if device.type != "cuda" or device.index is not None:
        return [device]
    return [torch.device("cuda", index) for index in range(min(stages, torch.cuda.device_count()))]


def check_memory(prepared: PreparedRun, devices: Sequence[torch.device]) -> dict[torch.device, int]:
    """Bytes that the run needs on each device. Raises `DoesNotFit` where that is more than is free."""
    run, workload = prepared.run, prepared.run.workload
    needed = dict.fromkeys(devices, 0)
    microbatches = -(-run.batch.sequences // run.batch.microbatch // run.replicas)
    for index, (first, last) in enumerate(cuts(prepared.shape.num_layers, run.stages)):
        alive = in_flight(workload, index, run.stages, microbatches)
        options = TrainingOptions(workload.microbatch, workload.length, alive, workload.recompute, workload.optimizer)
        memory = training_memory(prepared.shape, first, last, options)
        changed = memory.gradients + memory.optimizer if run.lora is None else 0
        alone = memory.weights + changed + memory.activations + memory.logits
        needed[devices[index % len(devices)]] += run.replicas * alone
    for device, nbytes in needed.items():
        if nbytes > (free := free_memory_bytes(device)):
            raise DoesNotFit(
                f"This run needs about {format_bytes(nbytes)} on {device}, where {format_bytes(free)} are free; lower "
                "the microbatch or the length, set recompute = true, or train adapters with [lora]."
            )
    return needed


def forecast(prepared: PreparedRun, devices: Sequence[torch.device], disk: Path) -> TrainForecast | None:
    """Of one step, by what this machine was just measured to do.

    None where stages share some of several devices, and where replicas share them.
    """
    run = prepared.run
    if run.replicas > 1:
        return None
    if len(devices) not in (1, run.stages):
        return None
    ranges = cuts(prepared.shape.num_layers, len(devices))
    names = [f"{index:064x}" for index in range(len(devices))]
    nodes = tuple(
        Node(name, str(device), "", measure_device(device, disk)) for name, device in zip(names, devices, strict=True)
    )
    stages = tuple(Stage(name, *layers) for name, layers in zip(names, ranges, strict=True))
    settings = TrainSettings(run.batch.sequences // run.batch.microbatch, run.batch.microbatch)
    pool = Pool(nodes, default_link=BETWEEN_DEVICES)
    plan = Plan(prepared.shape.name, (Pipeline(stages, settings),))
    return train_forecast(plan, pool, prepared.shape, run.workload, constants_of(pool))
