"""No two in the demo can play alone, and the play goes on whoever is killed: the planner itself is asked."""

import itertools
import json

import pytest

from muster.errors import DoesNotFit, Unsupported
from muster.lab.processes import WorkerSpec
from muster.lab.stage_set import DTYPE, demo_prompts, workers_for
from muster.model.shape import shape_of
from muster.plan.quick.planner import place
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


@pytest.mark.parametrize("layers", [4, 6, 8])
def test_one_or_two_cannot_play_but_any_three_can(layers: int) -> None:
    wanted = shape(num_hidden_layers=layers)
    workers = workers_for(wanted)
    assert len({worker.memory_bytes for worker in workers}) == len(workers)
    assert len({worker.speed for worker in workers}) == len(workers)
    assert len({worker.region for worker in workers}) == 3
    for few in itertools.chain(itertools.combinations(workers, 1), itertools.combinations(workers, 2)):
        with pytest.raises(DoesNotFit):
            place(wanted, pool(few))
    for three in itertools.combinations(workers, 3):
        assert len(place(wanted, pool(three)).pipelines[0].stages) == 3


def test_the_ring_holds_all_streams_at_once_even_with_three() -> None:
    # A greedy and a sampled stream share the pages of their beginning.
    beginnings = {prompt.text for prompt in demo_prompts()}
    tokens = sum(len(text) / 3.5 for text in beginnings) + 64 * len(demo_prompts())
    for three in itertools.combinations(workers_for(shape()), 3):
        pipeline = place(shape(), pool(three)).pipelines[0]
        assert pipeline.serve.num_pages * pipeline.serve.page_size >= tokens


def test_a_model_of_few_layers_is_refused() -> None:
    with pytest.raises(Unsupported, match="3 layers"):
        workers_for(shape(num_hidden_layers=3))
