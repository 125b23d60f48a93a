"""Scores of prompts are those of the whole model, whatever the split, the chunks, the company and the memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.exactness import load
from benchmarks.workload import llama, save
from muster.cost.memory import SCORED_AT_ONCE
from muster.errors import ProtocolViolation
from muster.serve.options import EngineOptions
from muster.serve.scoring import ScoredPrompt, Scoring
from muster.serve.turn import MAX_STEP_SCORES
from muster.spec.request import Finish, Request
from muster.spec.sampling import Sampling
from muster.spec.scores import LEAST_LOGPROB, PromptScores
from muster.wire.messages.generate import Row
from tests.serve.fake_stage import VOCABULARY, expected_logits
from tests.serve.ring import Ring, alone, fake_ring

OPTIONS = EngineOptions(max_context=200, num_microbatches=1, prefill_tokens=16)


def request(name: str, length: int, kept: int = 2, **sampling: object) -> Request:
    prompt = tuple((len(name) + 7 * i) % VOCABULARY for i in range(length))
    defaults: dict[str, object] = {"max_tokens": 3, "temperature": 0.0, "prompt_logprobs": kept}
    return Request(name, prompt, Sampling(**{**defaults, **sampling}))  # type: ignore[arg-type]


def expected(one: Request, num_stages: int) -> PromptScores:
    """From all logits at once."""
    rows = torch.stack([expected_logits(one.prompt[: i + 1], num_stages) for i in range(len(one.prompt) - 1)])
    return packed(rows.log_softmax(-1), one)


def packed(logprobs: torch.Tensor, one: Request) -> PromptScores:
    chosen = logprobs.gather(1, torch.tensor(one.prompt[1:])[:, None])
    best = logprobs.topk(one.sampling.prompt_logprobs or 0, dim=-1)
    ranks = (logprobs > chosen).sum(-1) + 1
    return PromptScores.pack(1, *(x.numpy() for x in (chosen[:, 0], ranks.int(), best.indices.int(), best.values)))


def same(scores: PromptScores, others: PromptScores, within: float = 1e-5) -> bool:
    assert (scores.first, scores.count, scores.alternatives) == (others.first, others.count, others.alternatives)
    near = np.allclose(scores.logprobs, others.logprobs, atol=within)
    return near and np.allclose(scores.others, others.others, atol=within)


@pytest.mark.parametrize("num_stages", [1, 2, 4])
@pytest.mark.parametrize("prefill_tokens", [1, 5, 64])
def test_scores_depend_neither_on_the_split_nor_on_chunks_nor_on_company(num_stages, prefill_tokens):
    ring = fake_ring(num_stages, 90, 4, replace(OPTIONS, num_microbatches=num_stages, prefill_tokens=prefill_tokens))
    scored = [request("s" * (i + 1), 2 + 11 * i, kept=i) for i in range(5)]
    plain = [request("p" * (i + 7), 3 + 9 * i, prompt_logprobs=None, seed=i, temperature=1.0) for i in range(4)]
    for one in [*scored, *plain]:
        ring.submit(one)
    ring.run()
    for one in scored:
        assert same(ring.scores[one.id], expected(one, num_stages))
        assert ring.scores[one.id].ranks.tolist() == expected(one, num_stages).ranks.tolist()
    assert set(ring.scores) == {one.id for one in scored}
    assert all(ring.tokens[one.id] == alone(one, num_stages, 200) for one in [*scored, *plain])
    ring.engine.check()
    assert ring.engine.stats().available_pages == 90


def test_a_prompt_alone_is_scored_without_a_token():
    ring = fake_ring(2, 60, 4, replace(OPTIONS, num_microbatches=2, max_context=30))
    whole, short = request("whole", 30, max_tokens=0), request("short", 1, max_tokens=0)
    ring.submit(whole)
    ring.submit(short)
    ring.run()
    assert ring.tokens == {"whole": [], "short": []}
    assert ring.finished == {"whole": Finish.LENGTH, "short": Finish.LENGTH}
    assert same(ring.scores["whole"], expected(whole, 2))


def test_what_is_cached_is_no_substitute_for_scores_but_serves_whoever_wants_none():
    ring = fake_ring(1, 60, 4, OPTIONS)
    first, again = request("same", 30), replace(request("same", 30), id="again")
    plain = Request("plain", first.prompt, Sampling(max_tokens=3, temperature=0.0))
    for one in (first, again, plain):
        ring.submit(one)
        ring.run()
    assert same(ring.scores["again"], expected(first, 1))
    assert ring.engine.stats().reused_tokens == 29, "the plain one found the prompt"
    assert ring.tokens["plain"] == ring.tokens["same"] == ring.tokens["again"]


def test_too_few_pages_preempt_and_change_no_score():
    ring = fake_ring(2, 14, 4, replace(OPTIONS, num_microbatches=2, prefill_tokens=5))
    requests = [request("r" * (i + 1), 12 + i, max_tokens=25) for i in range(6)]
    for one in requests:
        ring.submit(one)
    ring.run()
    assert ring.engine.stats().preemptions > 0
    assert all(same(ring.scores[one.id], expected(one, 2)) for one in requests)
    assert all(ring.tokens[one.id] == alone(one, 2, 200) for one in requests)


@pytest.mark.parametrize("cached", [True, False])
def test_an_interrupted_request_gets_the_rest_of_its_scores(cached):
    whole = request("whole", 40, max_tokens=4)
    for known in (1, 7, 20, 38, 39):
        ring = fake_ring(1, 60, 4, OPTIONS)
        if cached:
            ring.submit(Request("before", whole.prompt, Sampling(max_tokens=1)))
            ring.run()
        ring.submit(replace(whole, scored=known))
        ring.run()
        assert ring.tokens["whole"] == alone(whole, 1, 200)
        if known == whole.num_scores:
            assert "whole" not in ring.scores
        else:
            rest = ring.scores["whole"]
            assert rest.first <= known + 1, "some were lost"
            assert not cached or rest.first > known + 1 - 4, "cached pages ran again"
            assert same(rest.behind(known + 1), expected(whole, 1).behind(known + 1))


def test_many_scores_are_spread_over_steps_that_fit_into_a_frame(monkeypatch):
    monkeypatch.setattr("muster.serve.schedule.MAX_STEP_SCORES", 10)
    ring = fake_ring(1, 90, 4, replace(OPTIONS, prefill_tokens=64))
    requests = [request("r" * (i + 1), 23) for i in range(3)]
    plain = request("plain", 40, prompt_logprobs=None)
    for one in [*requests, plain]:
        ring.submit(one)
    ring.run()
    assert all(same(ring.scores[one.id], expected(one, 1)) for one in requests)
    assert (
        max(len(batch.scored_rows_C) for batch in ring.engine._stage.batches if batch.scored_rows_C is not None) <= 10
    )
    assert MAX_STEP_SCORES * 168 < 4 * 2**20


def test_what_a_model_rules_out_is_a_number():
    scoring = Scoring([Row(0, 0, 2, (0,), 0, 2)], {0: ScoredPrompt((1, 2, 3), 2)})
    scoring.look(torch.tensor([[0.0, 0.0, -torch.inf, 0.0]]))
    scoring.look(torch.tensor([[0.0, torch.nan, 0.0, 0.0]]))
    (scores,) = scoring.results()
    assert scores.logprobs.tolist() == [LEAST_LOGPROB, LEAST_LOGPROB]
    assert scores.fault(1, 2, 2, 4) is None


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ((), "Scores of 0 rows"),
        ("cut", "bytes of scores"),
        ("moved", "were due"),
        ("nan", "none"),
        ("above", "none"),
        ("token", "vocabulary"),
        ("rank", "vocabulary"),
    ],
)
def test_scores_that_make_no_sense_are_refused(scores, words):
    ring = fake_ring(2, 60, 4, replace(OPTIONS, num_microbatches=2))
    ring.submit(request("one", 9))
    ring.step()
    ring.move(0)
    done = ring.local._done.popleft()
    if scores:
        (good,) = done.scores
        records = np.frombuffer(good.data, dtype="<i4").reshape(good.count, -1).copy()
        floats = records.view("<f4")
        if scores == "nan":
            floats[3, 3] = np.nan
        elif scores == "above":
            floats[0, 0] = 0.1
        elif scores == "token":
            records[7, 2] = VOCABULARY
        elif scores == "rank":
            records[7, 1] = 0
        data = records.tobytes()
        data = data[:-4] if scores == "cut" else data
        scores = (replace(good, data=data, first=good.first + (scores == "moved")),)
    with pytest.raises(ProtocolViolation, match=words):
        ring.engine.receive(type(done)(epoch=0, sequence=0, sampled=done.sampled, scores=scores))


@pytest.mark.parametrize(("scores", "words"), [(-1, "scores -1"), (10, "scores 10"), (9, "not of its prompt")])
def test_a_row_that_scores_what_is_not_there_is_refused(scores, words):
    ring = fake_ring(2, 60, 4, replace(OPTIONS, num_microbatches=2))
    ring.submit(request("one", 9))
    ring.step()
    step, hidden = ring.local._followers[0].take()
    (row,) = step.rows
    bad = type(step)(
        epoch=0,
        sequence=0,
        rows=(Row(*[getattr(row, f) for f in row.__struct_fields__[:-1]], scores),),
        admit=step.admit,
    )
    with pytest.raises(ProtocolViolation, match=words):
        ring.local._followers[0].run(bad, hidden)


def test_a_slot_that_asked_for_no_scores_gets_none():
    ring = fake_ring(2, 60, 4, replace(OPTIONS, num_microbatches=2))
    ring.submit(request("one", 9, prompt_logprobs=None))
    ring.step()
    step, hidden = ring.local._followers[0].take()
    (row,) = step.rows
    bad = type(step)(epoch=0, sequence=0, rows=(Row(row.slot, 0, 9, row.pages, True, 3),), admit=step.admit)
    with pytest.raises(ProtocolViolation, match="not of its prompt"):
        ring.local._followers[0].run(bad, hidden)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return llama(64, 4, 256)


@pytest.mark.parametrize("num_stages", [1, 3])
def test_scores_are_those_of_transformers_and_few_logits_are_there_at_once(model, num_stages, tmp_path: Path):
    stages = load(save(model, tmp_path), 4, num_stages)
    pieces: list[int] = []
    stages[-1]._model.lm_head.register_forward_pre_hook(lambda module, args: pieces.append(args[0].shape[1]))
    generator = torch.Generator().manual_seed(0)
    prompts = [tuple(torch.randint(0, 256, (n,), generator=generator).tolist()) for n in (150, 2, 77)]
    sampling = Sampling(max_tokens=2, temperature=0.0, prompt_logprobs=3)
    requests = [Request(f"r{i}", prompt, sampling) for i, prompt in enumerate(prompts)]
    ring = Ring(
        stages,
        [stage.new_cache(40, 16) for stage in stages],
        EngineOptions(max_context=256, num_microbatches=num_stages, prefill_tokens=200),
    )
    for one in requests:
        ring.submit(one)
    ring.run()
    for one in requests:
        with torch.inference_mode():
            logprobs = model(torch.tensor([one.prompt])).logits[0, :-1].log_softmax(-1)
        assert same(ring.scores[one.id], packed(logprobs, one), within=1e-4)
    assert max(pieces) == SCORED_AT_ONCE
