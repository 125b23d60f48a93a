"""The attacks of the benchmark work: what a machine was sent it reads, and what is hidden costs a search."""

import torch

from benchmarks.private_search import Searcher
from tests.model.families import VOCAB, dense_model

IDS = [3, 9, 27, 14, 42, 5, 6, 7]


def test_a_state_gives_its_token_away_at_every_depth_and_a_hidden_one_costs_a_search() -> None:
    searcher = Searcher(dense_model("llama"))
    states = searcher.states(IDS)
    everything = {depth: states[depth, 4] for depth in range(len(states))}
    own = searcher.search_depths(IDS[:4], [], everything, searcher.blind(1), VOCAB)
    assert [found.tokens for found in own.values()] == [(42,)] * len(states)
    # Gap 2: the state of token 5, whose own token is known, and token 4 is not.
    assert searcher.search(IDS[:4], IDS[5:6], states[2, 5], 2, searcher.blind(1), VOCAB).tokens == (42,)
    # The embedding says nothing of the tokens before.
    assert searcher.search(IDS[:4], IDS[5:6], states[0, 5], 0, searcher.blind(1), VOCAB).tokens == (0,)
    # Gap 3 is beyond a budget of the vocabulary, unless something better than chance orders the candidates.
    assert searcher.search(IDS[:4], IDS[6:7], states[2, 6], 2, searcher.blind(2), VOCAB).tokens is None
    assert searcher.search(IDS[:4], IDS[6:7], states[2, 6], 2, iter([(8, 8), (42, 5)]), VOCAB).tokens == (42, 5)


def test_guided_candidates_come_in_the_order_of_their_probability() -> None:
    model = dense_model("llama")
    searcher = Searcher(model)
    with torch.inference_mode():
        first = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1].log_softmax(-1)
    order = searcher.guided(IDS, 2, budget=VOCAB + 1)
    costs = []
    for token, after in order:
        with torch.inference_mode():
            then = model(input_ids=torch.tensor([[*IDS, token]]), use_cache=False).logits[0, -1].log_softmax(-1)
        costs.append(float(first[token] + then[after]))
        if len(costs) == 12:
            break
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == max(costs)
