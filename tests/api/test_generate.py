"""Progress to deltas, whatever the grouping; seeds of choices."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from muster.api.generate import Choice, ChoiceWriter, Delta, choice_seed
from muster.errors import PoolUnavailable
from muster.spec.request import Finish, Progress, Request, Sampled
from muster.spec.sampling import Sampling
from muster.text.tokenizer import Tokenizer
from tests.examples import examples

relaxed = examples(100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(tokenizer: Tokenizer, progress: list[Progress], *stops: str, **sampling: object) -> list[Delta]:
    request = Request("r", (1,), Sampling(logprobs=0, **sampling))  # type: ignore[arg-type]
    writer = ChoiceWriter(tokenizer, Choice(0, request, stops))
    deltas = []
    for each in progress:
        deltas.append(writer.write(each))
        if deltas[-1].finish:
            break
    return deltas


@relaxed
@given(
    data=st.data(),
    text=st.text("ab é🦀\n", min_size=1, max_size=20),
    stops=st.lists(st.text("ab é", min_size=1), max_size=2),
)
def test_grouping_and_repetition_of_progress_change_nothing(
    tokenizer: Tokenizer, data: st.DataObject, text: str, stops: list[str]
) -> None:
    tokens = [Sampled(token, -1.0) for token in tokenizer.encode(text)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(tokens)), max_size=5)) | {len(tokens)})
    progress, start = [], 0
    for end in cuts:
        again = data.draw(st.integers(0, start))  # a resubmission may repeat what was already sent
        finish = Finish.LENGTH if end == len(tokens) else None
        progress.append(Progress("r", again, tuple(tokens[again:end]), finish))
        start = end
    singly = [
        Progress("r", i, (token,), Finish.LENGTH if i + 1 == len(tokens) else None) for i, token in enumerate(tokens)
    ]
    grouped, one_by_one = written(tokenizer, progress, *stops), written(tokenizer, singly, *stops)
    for deltas in (grouped, one_by_one):
        assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert "".join(delta.text for delta in grouped) == "".join(delta.text for delta in one_by_one)
    assert [t for d in grouped for t in d.tokens] == [t for d in one_by_one for t in d.tokens]
    assert grouped[-1].finish == one_by_one[-1].finish


def test_lost_tokens_are_an_error_not_a_gap(tokenizer: Tokenizer) -> None:
    with pytest.raises(PoolUnavailable, match="lost on the way"):
        written(tokenizer, [Progress("r", 2, (Sampled(5),))])


def test_an_ordinary_token_that_was_asked_to_stop_is_left_out(tokenizer: Tokenizer) -> None:
    a, b = (tokenizer.encode(letter)[0] for letter in "ab")
    progress = [Progress("r", 0, (Sampled(a), Sampled(b), Sampled(a)), Finish.STOP)]
    assert written(tokenizer, progress, stop_token_ids=(a,))[0].text == "ab"
    assert written(tokenizer, progress)[0].text == "aba"  # the backend stopped for a reason of its own


def test_seeds_of_choices_are_distinct_in_range_and_always_the_same() -> None:
    seeds = [choice_seed(7, i) for i in range(16)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert choice_seed(7, 1) == 2381080992809270424
