from collections import Counter

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from muster.serve.sampling import Sampler, Slot, _adjust, _keep_probable, _keep_top_k
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import Admit

VOCABULARY = 700


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 4


def sampler_with(*samplings: Sampling, context: tuple[int, ...] = (1, 2, 3), num_prompt: int = 2) -> Sampler:
    sampler = Sampler()
    for slot, sampling in enumerate(samplings):
        sampler.admit(Admit(slot, context, num_prompt, sampling))
    return sampler


MIXED = [
    Sampling(temperature=0.0),
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.3, top_k=5),
    Sampling(seed=3, top_p=0.7, logit_bias={5: 8.0}),
    Sampling(seed=4, min_p=0.1, repetition_penalty=1.3),
    Sampling(seed=5, temperature=1.9, top_k=50, top_p=0.9, min_p=0.01, presence_penalty=1.0, frequency_penalty=-0.5),
    Sampling(temperature=0.0, frequency_penalty=2.0, logprobs=2),
]


def test_a_row_does_not_depend_on_its_neighbours():
    together, apart = sampler_with(*MIXED), sampler_with(*MIXED)
    for turn in range(20):
        rows = logits(len(MIXED), turn)
        expected = together.sample(rows, range(len(MIXED)))
        order = [3, 0, 6, 5, 1, 4, 2]
        singles = {slot: apart.sample(rows[slot : slot + 1], [slot])[0].token for slot in order}
        assert [one.token for one in expected] == [singles[slot] for slot in range(len(MIXED))]


def test_the_logits_are_left_as_they_are():
    rows = logits(len(MIXED))
    before = rows.clone()
    sampler_with(*MIXED).sample(rows, range(len(MIXED)))
    assert torch.equal(rows, before)


def test_greedy_takes_the_best():
    rows = logits(3)
    sampled = sampler_with(*[Sampling(temperature=0.0)] * 3).sample(rows, [0, 1, 2])
    assert [one.token for one in sampled] == rows.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-7, 1e-5, 1e-4])
def test_a_tiny_temperature_is_greedy_and_never_overflows(temperature):
    rows = logits(1) * 100
    assert sampler_with(Sampling(temperature=temperature)).sample(rows, [0])[0].token == int(rows.argmax())


def test_truncation_agrees_with_transformers():
    rows = logits(4).log_softmax(-1)
    assert torch.equal(_keep_top_k(rows, [7] * 4), TopKLogitsWarper(7)(None, rows))
    for sampling, warper in [
        (Sampling(top_p=0.6), TopPLogitsWarper(0.6)),
        (Sampling(min_p=0.2), MinPLogitsWarper(0.2)),
    ]:
        kept = _keep_probable(rows.softmax(-1), [sampling] * 4) > 0
        assert torch.equal(kept, warper(None, rows) > -torch.inf)


def test_a_nucleus_wider_than_the_best_thousand_is_found_too():
    rows = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * 0.1
    probs = rows.softmax(-1)
    for samplings in ([Sampling(top_p=0.9), Sampling(top_p=0.05)], [Sampling(top_p=0.1), Sampling(top_p=0.05)]):
        kept = _keep_probable(probs, samplings) > 0
        for row, sampling in enumerate(samplings):
            assert torch.equal(kept[row], TopPLogitsWarper(sampling.top_p)(None, rows[row : row + 1])[0] > -torch.inf)


def test_truncation_is_chosen_row_by_row():
    rows = logits(3).log_softmax(-1)
    assert (_keep_top_k(rows, [0, 3, VOCABULARY + 9]) > -torch.inf).sum(-1).tolist() == [VOCABULARY, 3, VOCABULARY]
    kept = _keep_probable(rows.softmax(-1), [Sampling(), Sampling(top_p=1e-9), Sampling(min_p=1.0)])
    assert (kept > 0).sum(-1).tolist() == [VOCABULARY, 1, 1]


def test_the_repetition_penalty_agrees_with_transformers():
    rows = logits(1)
    context = (5, 5, 9, 77, 5)
    sampler = sampler_with(Sampling(repetition_penalty=1.7), context=context)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([context]), rows)
    assert torch.equal(_adjust(rows, list(sampler._slots.values())), expected)


def test_presence_and_frequency_count_the_output_only():
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    rows = logits(1)
    sampler = sampler_with(sampling, context=(5, 6, 6, 7, 6), num_prompt=2)
    change = (_adjust(rows, list(sampler._slots.values())) - rows)[0]
    assert {token: round(float(value), 4) for token, value in enumerate(change) if value != 0} == {6: -1.0, 7: -0.75}


def test_sampled_tokens_join_the_history():
    sampler = sampler_with(Sampling(temperature=0.0, frequency_penalty=2.0, logit_bias={8: 50.0}), context=(1,))
    rows = torch.zeros(1, VOCABULARY)
    tokens = [sampler.sample(rows, [0])[0].token for _ in range(30)]
    assert Counter(tokens)[8] in (25, 26)


def test_a_bias_of_minus_100_forbids_and_of_100_forces():
    rows = logits(2)
    best = int(rows[0].argmax())
    samplings = [Sampling(temperature=0.0, logit_bias={best: -100.0}), Sampling(seed=1, logit_bias={3: 100.0})]
    sampled = sampler_with(*samplings).sample(rows, [0, 1])
    assert sampled[0].token != best
    assert sampled[1].token == 3


def test_seeded_draws_of_many_positions_follow_the_distribution():
    sampler = sampler_with(Sampling(seed=11))
    row = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    counts = Counter(sampler.sample(row, [0])[0].token for _ in range(1500))
    for token, share in enumerate([0.1, 0.2, 0.3, 0.4]):
        assert abs(counts[token] / 1500 - share) < 0.05


def test_logprobs_are_those_of_the_model_itself():
    rows = logits(2)
    samplings = [Sampling(seed=1, temperature=0.5, logprobs=3, logit_bias={9: 20.0}), Sampling(seed=1)]
    first, second = sampler_with(*samplings).sample(rows, [0, 1])
    expected = rows[0].log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[first.token]))
    assert [one.token for one in first.top] == expected.topk(3).indices.tolist()
    assert second.logprob is None
    assert second.top == ()


def test_logits_that_are_not_numbers_give_some_token_and_no_crash():
    rows = torch.full((2, VOCABULARY), torch.nan)
    for one in sampler_with(Sampling(), Sampling(temperature=0.0)).sample(rows, [0, 1]):
        assert 0 <= one.token < VOCABULARY


def test_nothing_to_sample_is_no_trouble():
    assert sampler_with().sample(logits(1)[:0], []) == ()


def test_a_released_slot_forgets_its_history():
    sampler = sampler_with(Sampling(repetition_penalty=2.0))
    sampler.release(0)
    assert sampler.slots() == {}
    sampler.admit(Admit(0, (4,), 1, Sampling()))
    assert sampler._slots[0] == Slot(Sampling(), 1, 1, None, None)


def test_nothing_that_ends_a_sequence_is_chosen_before_its_minimum_length():
    rows = logits(1)
    best = rows[0].topk(3).indices.tolist()
    for temperature in (0.0, 1e-3):
        sampling = Sampling(temperature=temperature, min_tokens=2, stop_token_ids=(*best[:2], 10**6))
        sampler = sampler_with(sampling, context=(1, 2, 3), num_prompt=3)
        assert [sampler.sample(rows, [0])[0].token for _ in range(4)] == [best[2], best[2], best[0], best[0]]
        resubmitted = sampler_with(sampling, context=(1, 2, 3, best[2]), num_prompt=3)
        assert [resubmitted.sample(rows, [0])[0].token for _ in range(2)] == [best[2], best[0]]
