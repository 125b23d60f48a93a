"""The yardstick must be an honest one: probabilities that sum to one, and better the longer the context."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy
import pytest


def load() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "tools/ngram.py"
    spec = importlib.util.spec_from_file_location("ngram", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stream(length: int, vocab: int, seed: int = 0) -> numpy.ndarray:
    """Mostly predictable: the next token is a function of the last two, one time in five it is random."""
    generator = numpy.random.default_rng(seed)
    tokens = [1, 2]
    for _ in range(length - 2):
        tokens.append((3 * tokens[-1] + tokens[-2]) % vocab if generator.random() < 0.8 else generator.integers(vocab))
    return numpy.array(tokens)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_of_all_next_tokens_sum_to_one(order: int) -> None:
    vocab = 11
    model = load().KneserNey(order, vocab)
    model.fit(stream(2000, vocab))
    for context in ([3, 1, 4, 1], [9, 9, 9, 9], [0, 5, 10, 2]):
        total = sum(model.probabilities(numpy.array([*context, token]))[-1] for token in range(vocab))
        assert total == pytest.approx(1.0, abs=1e-9)


def test_a_longer_context_predicts_better_where_it_tells_more() -> None:
    vocab = 11
    bits = []
    for order in (1, 2, 3):
        model = load().KneserNey(order, vocab)
        model.fit(stream(5000, vocab))
        bits.append(-numpy.log2(model.probabilities(stream(2000, vocab, seed=1))).mean())
    assert min(bits[:2]) > bits[2] + 1  # one token back tells nothing in this language, two tell all
    assert bits[2] < 1.8  # of log2(11) = 3.46: the noise itself costs about 1.4 bits


def test_a_vocabulary_too_large_to_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        load().KneserNey(6, 4096)
