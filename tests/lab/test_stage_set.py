"""Nobody in the demo can play alone, and the play goes on whoever is killed: the planner itself is asked."""

import itertools
import json

import pytest

from muster.errors import DoesNotFit, Unsupported
from muster.lab.processes import WorkerSpec
from muster.lab.stage_set import DTYPE, demo_prompts, workers_for
from muster.model.shape import shape_of
from muster.plan.first import place
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device, Node, Pool

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


def shape(**changes: object) -> ModelShape:
    return shape_of(json.dumps(LLAMA | changes), "tiny", DTYPE)


def pool(workers: tuple[WorkerSpec, ...]) -> Pool:
    nodes = []
    for index, worker in enumerate(workers):
        flops, bandwidth = {"float32": 1e11 * worker.speed}, 1e10 * worker.speed
        device = Device("cpu", "2-core cpu", worker.memory_bytes, flops, bandwidth, bandwidth, 1e9)
        nodes.append(Node(f"{index:064x}", worker.name, worker.region, device))
    return Pool(tuple(nodes))


@pytest.mark.parametrize("layers", [4, 6, 8, 12])
def test_nobody_can_play_alone_and_any_three_can_play_together(layers: int) -> None:
    wanted = shape(num_hidden_layers=layers)
    workers = workers_for(wanted)
    assert len({worker.memory_bytes for worker in workers}) == len(workers)
    assert len({worker.speed for worker in workers}) == len(workers)
    assert len({worker.region for worker in workers}) == 3
    for worker in workers:
        with pytest.raises(DoesNotFit):
            place(wanted, pool((worker,)))
    for three in itertools.combinations(workers, 3):
        plan = place(wanted, pool(three))
        assert len(plan.pipelines[0].stages) > 1


def test_the_ring_holds_all_streams_at_once_even_with_three() -> None:
    longest = max(len(prompt.text) for prompt in demo_prompts()) // 3 + 64  # three characters per token or more
    for three in itertools.combinations(workers_for(shape()), 3):
        pipeline = place(shape(), pool(three)).pipelines[0]
        assert pipeline.num_pages * pipeline.page_size >= longest * len(demo_prompts()) / 2


def test_a_model_of_few_layers_is_refused() -> None:
    with pytest.raises(Unsupported, match="3 layers"):
        workers_for(shape(num_hidden_layers=3))
