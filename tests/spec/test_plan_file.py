"""A plan file gives back what was written, and refuses what cannot be a plan with one sentence."""

import json
from dataclasses import replace
from typing import Any

import pytest

from muster.cost.named_shapes import named_shape
from muster.errors import InvalidRequest
from muster.plan.quick.planner import place
from muster.spec.codec import Codec
from muster.spec.fleets import shipped_fleet
from muster.spec.plan import CodedLink, TrainSettings
from muster.spec.plan_file import PlanFile, parse_plan_file, to_record, what_changed, why_useless
from muster.spec.pool import LinkSpeed, Pool
from muster.spec.workload import ServeWorkload, TrainWorkload

SHAPE, POOL = named_shape("llama-3-70b"), shipped_fleet("deserve-8xl4")
PLAN = place(SHAPE, POOL)
FILE = PlanFile("throughput", 3, SHAPE, ServeWorkload(requests_per_s=0.5), POOL, PLAN)
TRAINS = TrainSettings(PLAN.pipelines[0].serve.num_microbatches)
CODED = CodedLink("l4-1", "l4-2", Codec("int4", 4.5, 2.0, 0.01))
TRAINING = replace(
    FILE,
    objective="train",
    workload=TrainWorkload(sequences=PLAN.pipelines[0].serve.num_microbatches, schedule="gpipe"),
    plan=replace(PLAN, pipelines=(replace(PLAN.pipelines[0], work=TRAINS, codecs=(CODED,)),)),
)


def record() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(to_record(FILE)))
    return loaded


def work(entries: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = entries["plan"]["pipelines"][0]["work"]
    return settings


def read(entries: dict[str, Any]) -> PlanFile:
    return parse_plan_file(json.dumps(entries))


def test_what_was_written_is_read() -> None:
    back = read(record())
    assert (back.objective, back.seed, back.shape, back.workload, back.plan) == (
        "throughput",
        3,
        SHAPE,
        FILE.workload,
        PLAN,
    )
    assert back.pool.nodes == POOL.nodes
    pairs = [(a.id, b.id) for a in POOL.nodes for b in POOL.nodes if a is not b]
    assert [back.pool.link(*pair) for pair in pairs] == [POOL.link(*pair) for pair in pairs]
    assert what_changed(back, POOL) is None
    assert why_useless(back, SHAPE, POOL) is None


def test_a_training_plan_keeps_its_codecs_and_its_workload() -> None:
    back = read(json.loads(json.dumps(to_record(TRAINING))))
    assert back.plan == TRAINING.plan
    assert back.workload == TRAINING.workload


def test_what_the_command_adds_for_programs_does_not_stop_a_reader() -> None:
    assert read({**record(), "forecast": {"tokens_per_s": 1.0}}).plan == PLAN


def stages(entries: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = entries["plan"]["pipelines"][0]["stages"]
    return found


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: e.pop("plan"), "cannot be used"),
        (lambda e: e.update(muster_plan=99), "does not know"),
        (lambda e: e.update(colour="red"), "colour"),
        (lambda e: e["plan"].update(colour="red"), "unknown key 'colour'"),
        (lambda e: stages(e)[2].update(colour="red"), "unknown key 'colour'"),
        (lambda e: e["workload"].update(colour="red"), "colour"),
        (lambda e: e["model"]["layer_bytes"].pop(), "layer_bytes has 79 entries for 80 layers"),
        (lambda e: e["model"]["layer_bytes"].__setitem__(3, -1), "layer_bytes of layer 3 must lie between 0 and 1,000"),
        (lambda e: e["model"]["layer_bytes"].__setitem__(3, 10**18 + 1), "layer_bytes of layer 3"),
        (lambda e: e["model"]["layer_bytes"].__setitem__(3, 1e30), "is wanted"),
        (lambda e: e["model"].update(head_bytes=-1), "head_bytes must lie between 0"),
        (lambda e: e["model"].update(num_layers=0), "num_layers must lie between 1"),
        (lambda e: e["model"].update(vocab_size=10**30), "too large a number"),
        (
            lambda e: work(e).update(num_pages="many"),
            "(a whole number is wanted, not text, at plan",
        ),
        (lambda e: work(e).update(num_pages=0), "num_pages in the plan must lie between 1"),
        (lambda e: work(e).update(num_pages=10**12), "num_pages"),
        (lambda e: work(e).update(batch=10**12), "batch"),
        (lambda e: work(e).update(swap_pages=10**8), "more than half of its pages"),
        (lambda e: e["plan"].update(step_seconds=float("inf")), "step_seconds"),
        (lambda e: e["plan"].update(model="opt-30b"), "another model"),
        (lambda e: e["plan"].update(standbys=["nobody"]), "'nobody'"),
        (lambda e: e["plan"].update(standbys=["l4-1"]), "both at work and standing by"),
        (lambda e: e["plan"]["pipelines"].clear(), "no pipeline"),
        (lambda e: stages(e).pop(), "of 80"),
        (lambda e: stages(e)[1].update(first=0), "begins at layer 0"),
        (lambda e: stages(e)[1].update(node="nobody"), "'nobody'"),
        (lambda e: stages(e)[1].update(devices=[1]), "device 1"),
        (lambda e: stages(e)[1].update(node=stages(e)[0]["node"]), "twice"),
        (lambda e: work(e).update(num_pages=-1), "num_pages"),
        (lambda e: e.update(pool="[[machine]]\ndevice = 'moon'"), "Device 'moon'"),
        (lambda e: e.update(objective=3), "text is wanted, not a whole number, at objective"),
        (lambda e: e.update(objective="latence"), "did you mean latency?"),
        (lambda e: e.update(objective="train"), "has the objective train and a plan that serves"),
    ],
)
def test_a_spoilt_plan_is_refused_with_one_sentence(spoil: Any, says: str) -> None:
    entries = record()
    spoil(entries)
    with pytest.raises(InvalidRequest) as caught:
        read(entries)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: work(e).update(num_microbatches=10**9), "hold 1,000,000,000 texts"),
        (lambda e: e["workload"].update(sequences=10**6), "the workload has 1,000,000"),
        (lambda e: e["workload"].update(length=0), "length must lie between 1"),
        (lambda e: e["workload"].update(schedule="zigzag"), "zigzag"),
        (lambda e: e["plan"]["pipelines"][0]["codecs"][0].update(target="nobody"), "'nobody'"),
        (lambda e: e["plan"]["pipelines"][0]["codecs"][0]["codec"].update(bits_per_value=-1), "figure outside 0 to 64"),
    ],
)
def test_a_spoilt_training_plan_is_refused_with_one_sentence(spoil: Any, says: str) -> None:
    entries = json.loads(json.dumps(to_record(TRAINING)))
    spoil(entries)
    with pytest.raises(InvalidRequest, match=says):
        read(entries)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"plan": {}}', "[" * 100_000])
def test_what_is_no_plan_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"not valid JSON|not a plan"):
        parse_plan_file(text)


def without(pool: Pool, name: str) -> Pool:
    return replace(pool, nodes=tuple(node for node in pool.nodes if node.name != name))


def test_a_plan_whose_machine_is_gone_or_smaller_is_useless_and_says_so() -> None:
    assert "l4-3 of it is not in the pool" in str(why_useless(FILE, SHAPE, without(POOL, "l4-3")))
    first, *others = POOL.nodes
    less = replace(first, device=replace(first.device, memory_bytes=first.device.memory_bytes - 2**30))
    assert "lends 1 GiB less" in str(why_useless(FILE, SHAPE, replace(POOL, nodes=(less, *others))))


def test_a_plan_for_another_model_is_useless_and_says_so() -> None:
    assert "in float16" in str(why_useless(FILE, named_shape("llama-3-70b", "float16"), POOL))
    assert "80 layers, and this one 79" in str(why_useless(FILE, replace(SHAPE, num_layers=79), POOL))
    assert "other sizes" in str(why_useless(FILE, replace(SHAPE, head_bytes=1), POOL))


def test_what_changed_without_breaking_the_plan_is_told() -> None:
    more = replace(POOL, nodes=(*POOL.nodes, replace(POOL.nodes[0], id="new", name="new")), links={})
    assert what_changed(FILE, more) == "new joined since"
    dearer = tuple(replace(node, price_per_hour=9.0) for node in POOL.nodes)
    assert "prices" in str(what_changed(FILE, replace(POOL, nodes=dearer)))
    slower = replace(POOL, links={(POOL.nodes[0].id, POOL.nodes[1].id): LinkSpeed(1.0, 1e6)})
    assert what_changed(FILE, slower) == "links are faster or slower than then"
    assert what_changed(FILE, without(POOL, "l4-8")) == "l4-8 left since"
