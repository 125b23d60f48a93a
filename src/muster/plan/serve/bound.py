"""What no plan can beat. Knows no layout.

Throughput. Let a step of B sequences take T. A device that holds some layers is busy with them for at least its share
of what the whole model takes it, so with t_i(B) the seconds of the whole model on device i alone,

    B / T  <=  sum over devices of B / t_i(B)

if t_i adds up over layers. Arithmetic c and memory traffic m overlap by a share o, and c + m - o min(c, m) does not add
up; any mixture of c + (1 - o) m and (1 - o) c + m is no longer and does. Pieces of the model (equal layers, the head)
may weigh differently on different devices; with weights w that sum to 1 over the model, a device does at most max over
pieces of w / t of it per second. B is at most what the whole fleet's memory holds beside the weights once. Splitting a
stage over devices and sending between stages only add to this. The bound on tokens per dollar is that of the best
machine, with the same B.

Latency. A request passes every layer once for each token, each at best on the fastest devices at its best degree.
"""

import numpy as np

from muster.cost.layer_ranges import Floats
from muster.plan.serve.job import Job

_MIXTURES = np.linspace(0.0, 1.0, 21)


def throughput_bound(job: Job) -> float:
    """Tokens a second."""
    devices = np.zeros(len(job.fleet.kinds))
    for node, of_class in zip(job.fleet.nodes, job.fleet.class_of, strict=True):
        devices[job.fleet.kind_of[of_class]] += node.device_count
    return float(devices @ rate_per_device(job))


def cost_bound(job: Job) -> float:
    """Tokens a second per dollar an hour."""
    rates = rate_per_device(job)
    fleet = job.fleet
    best = 0.0
    for node, of_class in zip(fleet.nodes, fleet.class_of, strict=True):
        price = float(fleet.price[of_class])
        rate = rates[fleet.kind_of[of_class]] * node.device_count
        best = max(best, rate / price if price > 0 else np.inf)
    return best


def latency_bound(job: Job) -> float:
    """Seconds of one request on an idle pool."""
    fleet, outputs = job.fleet, job.workload.output_tokens
    total = 0.0
    for tables, times in ((job.quiet_tables, outputs - 1), (job.prompt_tables, 1)):
        # Each layer as a stage of its own, less what a stage takes however small it is.
        pieces = [
            np.diagonal(tables.seconds(kind, degree)[0], offset=1) - tables.start_s(kind, degree, 0)
            for kind, node in enumerate(fleet.kinds)
            for degree in tables.degrees(node.device_count)
        ]
        total += times * float(np.maximum(np.min(pieces, axis=0), 0.0).sum())
    return total


def _most_sequences(job: Job) -> float:
    """That any one step may carry: the whole fleet's memory less the weights once, at most `max_batch`."""
    memory = sum(node.device_count * node.device.memory_bytes for node in job.fleet.nodes)
    each = job.demand.pages_each * job.demand.page_size * max(1, sum(job.shape.kv_bytes_per_token))
    most = (memory - job.shape.weight_bytes(0, job.shape.num_layers)) / each + 1
    return float(min(job.options.max_batch, max(1.0, most)))


def rate_per_device(job: Job) -> Floats:
    """[kind]: tokens a second that one device adds at most."""
    most = min(int(np.searchsorted(job.batches, _most_sequences(job))), len(job.batches) - 1)
    # More sequences only help, except where a step takes no more prompts.
    return np.asarray(np.max([_rates(job, index) for index in range(most + 1)], axis=0))


def _rates(job: Job, index: int) -> Floats:
    tokens = min(float(job.batches[index]), job.demand.most_prompts * job.workload.output_tokens)
    pieces = [job.tables.layer_parts(kind, index) for kind in range(len(job.fleet.kinds))]
    means = np.mean([np.maximum(one[0], one[1]) + one[2] for one in pieces], axis=0)
    weights = means / means.sum()
    overlaps = [job.tables.constants.of(kind.device).overlap for kind in job.fleet.kinds]
    return tokens * np.array(
        [_shares_per_second(one, weights, overlap) for one, overlap in zip(pieces, overlaps, strict=True)]
    )


def _shares_per_second(pieces: Floats, weights: Floats, overlap: float) -> float:
    """Of one step of the whole model, that a device can do in a second; `pieces`: [kind of seconds, layer]."""
    computing = pieces[0] + (1 - overlap) * pieces[1]
    moving = (1 - overlap) * pieces[0] + pieces[1]
    mixed = _MIXTURES[:, None] * computing + (1 - _MIXTURES[:, None]) * moving + pieces[2]
    return float(np.min(np.max(weights / np.maximum(mixed, 1e-15), axis=1)))
