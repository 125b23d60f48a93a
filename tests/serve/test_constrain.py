import re
from dataclasses import replace

import pytest

from muster.errors import InvalidRequest, LimitReached, ProtocolViolation
from muster.serve.constrain import Constraint
from muster.serve.options import EngineOptions
from muster.spec.request import Finish, Request
from muster.spec.sampling import MAX_GRAMMARS, Sampling
from muster.text.constraint import grammar_of_choice, grammar_of_regex
from tests.serve.fake_stage import expected_logits
from tests.serve.ring import Ring, alone, fake_ring
from tests.serve.spelled import END, constraints, text_of

OPTIONS = EngineOptions(max_context=64, eos_token_ids=frozenset({END}), num_microbatches=3)
SHAPE = r"[a-f]{2,9}[0-9]{3}"


def a_request(name: str, expression: str = SHAPE, **sampling: object) -> Request:
    seed = sum(map(ord, name))
    chosen = {"max_tokens": 30, "temperature": 1.0, "seed": seed, "grammar": grammar_of_regex(expression)} | sampling
    return Request(name, (3, 1, 4, 1, 5), Sampling(**chosen))


def answers(
    requests: list[Request], stages: int = 1, pages: int = 64, options: EngineOptions = OPTIONS, **made: tuple[int, ...]
) -> Ring:
    ring = fake_ring(stages, pages, 4, options, constraints(**made))
    for request in requests:
        ring.submit(request)
    while ring.local.busy:
        ring._note(ring.local.work())
        ring.engine.check()
    return ring


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_keeps_to_its_grammar_and_ends_with_it_whatever_the_split(temperature):
    requests = [a_request(f"r{i}", temperature=temperature) for i in range(6)]
    for stages in (1, 2, 4):
        ring = answers(requests, stages)
        for name, tokens in ring.tokens.items():
            assert re.fullmatch(SHAPE, text_of(tokens))
            assert tokens[-1] != END, "nothing can follow, so no end-of-text token is needed"
            assert ring.finished[name] == Finish.STOP


def test_what_was_interrupted_goes_on_as_if_it_had_not_been():
    request = a_request("interrupted")
    whole = answers([request], 3).tokens[request.id]
    for cut in range(len(whole)):
        ring = answers([replace(request, emitted=tuple(whole[:cut]))], 3)
        assert ring.tokens[request.id] == whole
        assert ring.finished[request.id] == Finish.STOP


def test_preemption_changes_no_answer():
    requests = [a_request(f"p{i}", r"[a-z]{20,25}") for i in range(6)]
    roomy, tight = answers(requests, 2, pages=128), answers(requests, 2, pages=17)
    assert tight.engine.stats().preemptions > 0
    assert tight.tokens == roomy.tokens


def test_whoever_has_no_grammar_gets_what_it_gets_alone():
    free = [replace(a_request(f"f{i}", grammar=""), prompt=(i + 1,)) for i in range(3)]
    ring = answers([free[0], a_request("r"), free[1], a_request("s"), free[2]], 2)
    for request in free:
        assert ring.tokens[request.id] == alone(request, 2, 64, OPTIONS.eos_token_ids)


def test_a_text_ends_only_where_its_grammar_does():
    eager = {"logit_bias": {END: 100.0}}
    ring = answers([a_request("early", "[a-z]{7,}", **eager), a_request("at once", "[a-z]*", **eager)])
    assert len(text_of(ring.tokens["early"])) == 7
    assert ring.tokens["at once"] == [END]
    assert set(ring.finished.values()) == {Finish.STOP}


def test_an_end_that_is_ignored_still_ends_what_is_complete():
    ring = answers([a_request("one", "[a-z]{3}", ignore_eos=True), a_request("some", "[a-z]{0,4}", ignore_eos=True)])
    assert set(ring.finished.values()) == {Finish.STOP}


def test_a_model_without_an_end_of_text_token_can_complete_an_answer():
    options = replace(OPTIONS, eos_token_ids=frozenset())
    ring = answers([a_request("r"), a_request("s", "[a-c]*")], options=options, end_ids=())
    assert re.fullmatch(SHAPE, text_of(ring.tokens["r"]))
    assert re.fullmatch("[a-c]{30}", text_of(ring.tokens["s"]))
    assert ring.finished == {"r": Finish.STOP, "s": Finish.LENGTH}


def test_the_grammar_comes_before_truncation_and_after_log_probabilities():
    ring = fake_ring(1, 64, 4, OPTIONS, constraints())
    request = a_request("r", "[0-9]{2}", top_k=1, top_p=0.01, logprobs=1)
    ring.submit(request)
    seen = []
    while ring.local.busy:
        seen += [token for progress in ring.local.work() for token in progress.tokens]
    assert re.fullmatch("[0-9]{2}", text_of([one.token for one in seen]))
    context = list(request.prompt)
    for one in seen:
        scores = expected_logits(context, 1).log_softmax(dim=-1)
        assert one.logprob == pytest.approx(float(scores[one.token]), abs=1e-5)
        assert one.top[0].token == int(scores.argmax())
        context.append(one.token)


def test_the_same_grammar_is_compiled_once_and_a_wrong_one_ends_whoever_wanted_it():
    shop = constraints()
    ring = fake_ring(2, 64, 4, OPTIONS, shop)
    for name in ("a", "b"):
        ring.submit(a_request(name))
        ring.submit(a_request(f"wrong {name}", "(?=a)b"))
    ring.run()
    assert shop.numbers == {1}
    assert set(ring.finished) == {"a", "b"}
    assert set(ring.local.failed) == {"wrong a", "wrong b"}
    assert all("look-around" in str(error) for error in ring.local.failed.values())
    ring.engine.check()


def test_what_the_vocabulary_cannot_spell_ends_its_request_alone():
    ring = answers([a_request("r"), a_request("stuck", "[a-z]{3}!")], 2)
    error = ring.local.failed["stuck"]
    assert isinstance(error, InvalidRequest)
    assert "nothing that this model can write fits it" in str(error)
    assert ring.finished == {"r": Finish.STOP}


def test_a_request_that_is_cancelled_while_its_grammar_is_compiled_is_forgotten():
    ring = fake_ring(2, 64, 4, OPTIONS, constraints())
    ring.submit(a_request("gone"))
    ring.submit(a_request("stays"))
    ring.cancel("gone")
    ring.engine.check()
    ring.run()
    assert set(ring.finished) == {"stays"}


def test_grammars_that_nobody_uses_make_room_for_others():
    shop = constraints()
    ring = fake_ring(2, 64, 4, OPTIONS, shop)
    for index in range(MAX_GRAMMARS + 5):
        ring.submit(a_request(f"r{index}", grammar=grammar_of_choice([f"a{index}"]), max_tokens=1))
        ring.run()
        ring.engine.check()
    assert len(ring.finished) == MAX_GRAMMARS + 5
    assert len(shop.numbers) <= MAX_GRAMMARS


def test_more_grammars_at_once_than_a_stage_holds_are_refused_by_name():
    ring = fake_ring(2, 512, 4, OPTIONS, constraints())
    for index in range(MAX_GRAMMARS):
        ring.submit(a_request(f"r{index}", f"a{{{index + 1}}}"))
    with pytest.raises(LimitReached, match="Too many different schemas"):
        ring.submit(a_request("one more", "b"))
    ring.engine.check()


def test_a_first_stage_that_fills_the_memory_of_the_last_is_refused():
    shop = constraints()
    with pytest.raises(ProtocolViolation, match="came twice"):
        [shop.reserve(1, "a") for _ in range(2)]
    with pytest.raises(ProtocolViolation, match="More grammars"):
        [shop.reserve(number, "a") for number in range(2, 3 * MAX_GRAMMARS)]
    other = constraints()
    with pytest.raises(ProtocolViolation, match="More grammars"):
        [other.reserve(number, "a" * 2**20) for number in range(1, 20)]


def test_a_broken_vocabulary_is_a_sentence_and_not_the_end_of_the_stage():
    shop = constraints()
    shop._spellings = lambda: b"\x00"
    assert "cannot read the model's vocabulary" in shop.prepare(1, grammar_of_regex("a"))


def test_an_answer_that_is_said_again_must_fit_and_must_not_be_complete():
    shop = constraints()
    assert shop.prepare(1, grammar_of_regex("ab")) == ""
    assert shop.begin(1, [1]).fault is None
    assert shop.begin(1, [2]).fault == "what the answer says so far does not fit it"
    assert shop.begin(1, [1, 2]).fault == "the answer was complete before"


def test_tokens_can_be_looked_at_ahead_and_taken_back():
    shop = constraints()
    shop.prepare(1, grammar_of_regex("[ab]{3}c"))
    ahead: Constraint = shop.begin(1, [1])
    assert ahead.matcher.validate_tokens([2, 1, 3, 3]) == 3
    assert ahead.matcher.consume_tokens([2, 1])
    assert ahead.matcher.rollback(2)
    assert ahead.matcher.validate_tokens([2, 1, 3, 3]) == 3


@pytest.mark.parametrize("stages", [1, 3])
def test_clients_that_leave_before_any_step_do_not_fill_the_memory_of_the_last_stage(stages):
    shop = constraints()
    ring = fake_ring(stages, 64, 4, OPTIONS, shop)
    for index in range(3 * MAX_GRAMMARS):
        ring.submit(a_request(f"r{index}", grammar=grammar_of_choice([f"a{index}"])))
        ring.step()
        ring.cancel(f"r{index}")
        ring.engine.check()
    assert ring.engine.stats().steps == 0
    assert len(shop.numbers) <= MAX_GRAMMARS
    ring.submit(a_request("stays"))
    ring.run()
    assert ring.finished == {"stays": Finish.STOP}
