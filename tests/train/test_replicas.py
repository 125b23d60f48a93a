"""Replicas stay the same to the last bit, however they exchange, and learn what one pipeline learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from muster.errors import InvalidRequest, MalformedFrame, TrainingDiverged, Unsupported
from muster.spec.training import ExchangeTable, parse_run
from muster.train.buckets import PACKED, ROW, WHOLE, flattened, spread, unpacked
from muster.train.corpus import Corpus
from muster.train.instructions import Place
from muster.train.links import StageLinks
from muster.train.replicas import make_exchange
from muster.train.run import Running, prepare
from tests.train.runs import LENGTH, prepared, running

STEPS = 12
EXCHANGES: dict[str, dict[str, Any]] = {
    "exact": {},
    "int8": {"codec": "int8"},
    "int4": {"codec": "int4"},
    "diloco": {"codec": "int8", "every": 3},
    "sparse": {
        "codec": "chunk-top-k-1/64",
        "every": 3,
        "feedback": 0.95,
        "outer_learning_rate": 1.0,
        "outer_momentum": 0.0,
    },
}


def started(folder: Path, family: str = "llama-tied", replicas: int = 2, stages: int = 2, **options: Any) -> Running:
    exchange = ExchangeTable(**options)
    return running(prepared(folder, family, replicas=replicas, stages=stages, steps=STEPS, exchange=exchange))


def learning(folder: Path, **options: Any) -> Running:
    """Three replicas, and texts of which each tells something of the others."""
    start = prepared(folder, "llama-tied", replicas=3, stages=2, steps=STEPS, exchange=ExchangeTable(**options))
    ids = (np.arange(40 * LENGTH + 1) * 5 % 11).astype(np.uint32)
    corpus = Corpus(ids, LENGTH, 0)
    return running(replace(start, corpus=corpus, held_out=corpus))


def trained(folder: Path, **options: Any) -> Running:
    run = started(folder, **options)
    for _ in range(STEPS):
        run.step()
    return run


def held(run: Running, pipeline: int) -> dict[str, torch.Tensor]:
    return {
        f"{place.stage} {name}": tensor
        for place, trainer in run._pipelines.trainers.items()
        if place.pipeline == pipeline
        for name, tensor in trainer.stage.parameters().items()
    }


def loss(run: Running) -> float:
    score = run.evaluate()
    assert score is not None
    return score.loss


@pytest.mark.parametrize("name", EXCHANGES)
def test_replicas_hold_the_same_weights_to_the_last_bit_after_an_exchange(tmp_path: Path, name: str) -> None:
    run = trained(tmp_path, **EXCHANGES[name])
    first, second = held(run, 0), held(run, 1)
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
    ends = list(run._pipelines.trainers[Place(0, 0)].stage.at_both_ends())
    assert ends, "the embedding is the output projection, too"
    for key in ends:
        assert torch.equal(first[f"0 {key}"], first[f"1 {key}"])


@pytest.mark.parametrize(
    "name", ["int4", "sparse", *(pytest.param(name, marks=pytest.mark.chaos) for name in ("exact", "int8", "diloco"))]
)
def test_replicas_learn_what_one_pipeline_learns(tmp_path: Path, name: str) -> None:
    alone, together = trained(tmp_path / "a", replicas=1), trained(tmp_path / "b", **EXCHANGES[name])
    tolerance = {"exact": 1e-5, "int8": 2e-3, "int4": 0.02, "diloco": 0.1, "sparse": 0.2}[name]
    assert loss(together) == pytest.approx(loss(alone), rel=tolerance)
    start = loss(started(tmp_path / "b"))
    assert loss(together) < start


def test_local_steps_go_their_own_way_until_they_meet(tmp_path: Path) -> None:
    run = started(tmp_path, **EXCHANGES["diloco"])
    same = []
    for _ in range(6):
        run.step()
        one, other = held(run, 0), held(run, 1)
        same.append(all(torch.equal(tensor, other[key]) for key, tensor in one.items()))
    assert same == [False, False, True] * 2


def test_with_one_local_step_no_momentum_and_no_loss_of_digits_the_mean_of_weights_is_taken(tmp_path: Path) -> None:
    """H = 2, outer SGD of rate 1: the new weights are the mean of those that the replicas came to."""
    options = {"codec": "fp32", "every": 2, "outer_learning_rate": 1.0, "outer_momentum": 0.0}
    met, apart = started(tmp_path / "a", **options), started(tmp_path / "b", **(options | {"every": 1000}))
    for _ in range(2):
        met.step()
        apart.step()
    for key, tensor in held(met, 0).items():
        assert torch.allclose(tensor, (held(apart, 0)[key] + held(apart, 1)[key]) / 2, atol=1e-6), key


def test_the_outer_optimizer_is_torchs_sgd_with_nesterov_momentum() -> None:
    weight = torch.nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    reference = torch.nn.Parameter(weight.detach().clone())
    torchs = torch.optim.SGD([reference], lr=0.7, momentum=0.9, nesterov=True)
    options = ExchangeTable(every=2, codec="fp32")
    outer = make_exchange(options, {"w": weight}, frozenset(), Place(0, 0), pipelines=2, stages=1)
    for seed in range(4):
        moved = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        reference.grad = moved
        torchs.step()
        outer._outer_step([{"w": moved}])  # type: ignore[attr-defined]
        assert torch.allclose(weight, reference, atol=1e-6)


@pytest.mark.parametrize(("name", "most"), [("int8", 0.27), ("int4", 0.14)])
def test_what_replicas_send_is_as_short_as_the_codec_says(tmp_path: Path, name: str, most: float) -> None:
    sent = {}
    for kind in ("exact", name):
        run = started(tmp_path, **EXCHANGES[kind])
        links = {place: StageLinks(place, run.prepared.run.links) for place in run._pipelines.trainers}
        run._pipelines.links = links
        run.step()
        sent[kind] = links[Place(0, 0)].traffic["shared"].sent
    # The bucket of so small a model is mostly filled up; what matters is that no gradient goes in full.
    assert sent[name] < max(most * sent["exact"], 60_000)


@pytest.mark.parametrize("name", ["int8", "diloco"])
def test_what_is_no_number_stops_all_replicas_and_changes_nothing(tmp_path: Path, name: str) -> None:
    run = started(tmp_path, **EXCHANGES[name])
    run.step()
    weight = next(iter(run._pipelines.trainers[Place(0, 1)].stage.parameters().values()))
    before = {key: tensor.clone() for key, tensor in held(run, 0).items()}
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="stage 2"):
        run.step()
    with torch.no_grad():
        weight.copy_(kept)
    assert all(torch.equal(tensor, before[key]) for key, tensor in held(run, 0).items())


def test_a_run_with_local_steps_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", **EXCHANGES["diloco"])
    run = started(tmp_path / "b", **EXCHANGES["diloco"])
    for _ in range(6):
        run.step()
    run.save()
    again = started(tmp_path / "b", **EXCHANGES["diloco"])
    assert again.done == 6
    for _ in range(6):
        again.step()
    assert loss(again) == pytest.approx(loss(whole), rel=0.01)
    outer = again._pipelines.trainers[Place(0, 0)].exchange.state()
    assert outer
    assert any(bool(one.any()) for one in outer.values())


def test_tensors_come_back_from_a_bucket() -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(2, ROW).bfloat16(), "c": torch.zeros(0, 4)}
    flat = flattened(list(tensors.values()), parts=2)
    assert flat.shape == (2, 2, ROW)
    back = spread(flat, tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert [back[name].dtype for name in tensors] == [tensor.dtype for tensor in tensors.values()]


@pytest.mark.parametrize(
    "came",
    [
        {},
        {PACKED: torch.zeros(3)},
        {PACKED: torch.zeros(7, dtype=torch.uint8)},
        {WHOLE: torch.zeros(2, ROW)},
        {WHOLE: torch.zeros(1, ROW, dtype=torch.float64)},
    ],
)
def test_what_a_replica_cannot_have_sent_is_refused(came: dict[str, torch.Tensor]) -> None:
    from muster.compress.registry import make_coder
    from muster.spec.codec import Codec

    with pytest.raises(MalformedFrame):
        unpacked(came, (1, ROW), "int8", make_coder(Codec("int8")))


def test_what_cannot_work_is_said_before_it_starts(tmp_path: Path) -> None:
    head = 'model = "tiny"\nout = "o"\nsteps = 1\n'
    data = '[data]\nfiles = ["x.txt"]\n'
    with pytest.raises(InvalidRequest, match="microbatches"):
        parse_run(head + "replicas = 5\n" + data + "[batch]\nsequences = 4\n")
    with pytest.raises(InvalidRequest, match="feedback"):
        parse_run(head + data + '[exchange]\nevery = 30\ncodec = "chunk-top-k-1/64"\n')
    with pytest.raises(Unsupported, match="zip"):
        prepare(parse_run(head + data + '[exchange]\ncodec = "zip"\n'), tmp_path, lambda words: None)


@pytest.mark.parametrize("poison", [-1.0, 10.0, 100.0, -100.0, float("nan")])
def test_a_poisoned_move_is_refused_and_the_others_go_on(tmp_path: Path, poison: float) -> None:
    options = EXCHANGES["diloco"] | {"judged": True, "outer_learning_rate": 1.0, "outer_momentum": 0.0}
    run = learning(tmp_path, **options)
    for place, trainer in run._pipelines.trainers.items():
        if place.pipeline == 1:
            honest = trainer.exchange.moved  # type: ignore[attr-defined]
            trainer.exchange.moved = lambda weights, honest=honest: honest(weights) * poison  # type: ignore[attr-defined]
    before = loss(run)
    reports = [run.step() for _ in range(6)]
    assert [report.rejected for report in reports] == [(), (), (1,)] * 2
    assert loss(run) < before
    first, second = held(run, 0), held(run, 1)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_honest_moves_are_taken(tmp_path: Path) -> None:
    run = learning(tmp_path, **EXCHANGES["diloco"], judged=True)
    assert {run.step().rejected for _ in range(STEPS)} == {()}
