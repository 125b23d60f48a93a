"""Runs whose stages are joined by packed links: what they learn, what they send, and that no end loses the other."""

from pathlib import Path

import pytest
import torch

from muster.compress.remembered import NOTHING
from muster.errors import Unsupported
from muster.spec.training import LinksTable
from muster.train.corpus import numbers_of
from muster.train.instructions import LetterLabel, Place, Receive, SendLetter
from muster.train.links import StageLinks, check_links, settled
from muster.train.run import Running
from tests.train.runs import prepared, running, weights

STEPS = 12


def trained(folder: Path, stages: int = 3, steps: int = STEPS, **links: str) -> Running:
    run = running(prepared(folder, stages=stages, steps=steps, links=LinksTable(**links)))
    for _ in range(steps):
        run.step()
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Running:
    """With raw links."""
    return trained(tmp_path_factory.mktemp("plain"))


def loss(run: Running) -> float:
    score = run.evaluate()
    assert score is not None
    return score.loss


def distance(one: Running, other: Running) -> float:
    theirs = weights(other)
    return float(sum((tensor - theirs[name]).square().sum() for name, tensor in weights(one).items()) ** 0.5)


def test_links_that_lose_nothing_change_nothing(tmp_path: Path, plain: Running) -> None:
    packed = trained(tmp_path, forward="fp32", backward="fp32")
    assert distance(plain, packed) == 0.0


@pytest.mark.parametrize("forward", ["aq-4", "channel-4", "tile-4", "top-k-1/2", "ada-top-k"])
def test_a_run_with_packed_links_learns(tmp_path: Path, plain: Running, forward: str) -> None:
    packed = trained(tmp_path, forward=forward, backward="int8")
    assert loss(packed) == pytest.approx(loss(plain), rel=0.01)
    assert (distance(plain, packed) > 0) or forward == "ada-top-k"


def test_changes_are_nearer_to_an_unpacked_run_than_values_are(tmp_path: Path) -> None:
    """40 texts, 4 a step: the second epoch begins with the eleventh step."""
    runs = {name: trained(tmp_path / name, steps=30, forward=name) for name in ("raw", "aq-2", "channel-2")}
    assert distance(runs["raw"], runs["aq-2"]) < 0.5 * distance(runs["raw"], runs["channel-2"])


def test_all_ends_remember_the_same_and_it_is_counted_what_they_send(tmp_path: Path) -> None:
    run = trained(tmp_path, forward="aq-4", backward="channel-8")
    links = run._pipelines.links
    assert links is not None
    for stage in (0, 1):
        sender, receiver = links[Place(0, stage)].sender, links[Place(0, stage + 1)].receiver
        assert sender is not None
        assert receiver is not None
        texts = list(sender.remembered._held)
        assert len(texts) == 40
        assert sender.remembered.digests(texts) == receiver.remembered.digests(texts)
    forward, back = links[Place(0, 0)].traffic["activations"], links[Place(0, 2)].traffic["gradients"]
    assert forward.sent < forward.raw
    assert back.raw / back.sent == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_that_forgets_everything_is_brought_up_to_date_in_the_same_step(tmp_path: Path, stage: int) -> None:
    run = trained(tmp_path, forward="aq-4")
    links = run._pipelines.links
    assert links is not None
    links[Place(0, stage)].forget()
    run.step()
    texts = numbers_of(run.prepared.corpus.batch(run.done - 1, 4))
    for place in (Place(0, 0), Place(0, 1)):
        sender, receiver = links[place].sender, links[place._replace(stage=place.stage + 1)].receiver
        assert sender is not None
        assert receiver is not None
        assert sender.remembered.digests(texts) == receiver.remembered.digests(texts)
        assert NOTHING not in {sender.remembered.digests([text]) for text in texts}


def test_what_is_no_number_reaches_the_stage_that_names_it(tmp_path: Path) -> None:
    here, there = (StageLinks(Place(0, stage), LinksTable(forward="aq-4")) for stage in (0, 1))
    label, bad = LetterLabel("activations", 0), torch.full((1, 2, 3), float("nan"))
    parcels = here.pack(SendLetter(Place(0, 1), label, {"hidden": bad}, (7,)))
    back = there.unpack(Receive(Place(0, 0), label, (7,)), parcels)
    assert bool(back["hidden"].isnan().all())


def test_where_no_text_comes_twice_nothing_is_remembered() -> None:
    links = LinksTable(forward="aq-4", backward="int8")
    assert settled(links, visits=1.0).forward == "tile-4"
    assert settled(links, visits=1.5) == links
    assert settled(LinksTable(forward="int8"), visits=0.5).forward == "int8"


@pytest.mark.parametrize("links", [{"forward": "zip"}, {"backward": "zip"}, {"backward": "aq-4"}, {"forward": "aq-9"}])
def test_unknown_codecs_are_named_before_anything_starts(links: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match=r"zip|aq-"):
        check_links(LinksTable(**links))
