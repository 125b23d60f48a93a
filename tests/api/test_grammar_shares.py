"""However much room for grammars a client takes, there is some for the next one."""

from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.grammar_shares import GrammarShares
from muster.errors import LimitReached
from muster.spec.sampling import MAX_GRAMMAR_BYTES, MAX_GRAMMARS, MAX_GRAMMARS_BYTES
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served, eventually
from tests.examples import examples


def fill(shares: GrammarShares, stack: ExitStack, owner: str, nbytes: int) -> int:
    """How many different grammars of that size the owner gets in use at once."""
    for index in range(2 * MAX_GRAMMARS):
        try:
            stack.enter_context(shares.use(owner, f"{owner} {index} ".ljust(nbytes, "x")))
        except LimitReached:
            return index
    return 2 * MAX_GRAMMARS


def test_one_client_gets_half_and_the_next_ones_find_room_all_the_same() -> None:
    shares, size = GrammarShares(), MAX_GRAMMARS_BYTES // 16
    with ExitStack() as stack:
        assert fill(shares, stack, "a", size) == 8
        assert [fill(shares, stack, owner, size) for owner in "bcd"] == [4, 2, 1]
        assert fill(shares, stack, "e", 10) > 10
    with ExitStack() as stack:
        assert fill(shares, stack, "a", 10) == MAX_GRAMMARS // 2


def test_one_grammar_is_always_taken_and_one_that_is_in_use_costs_nothing_more() -> None:
    shares = GrammarShares()
    with ExitStack() as stack:
        stack.enter_context(shares.use("a", "x" * MAX_GRAMMAR_BYTES))
        stack.enter_context(shares.use("b", "y" * MAX_GRAMMAR_BYTES))
        for _ in range(3 * MAX_GRAMMARS):
            stack.enter_context(shares.use("a", "x" * MAX_GRAMMAR_BYTES))
        with pytest.raises(LimitReached, match="of this key"):
            stack.enter_context(shares.use("a", "z"))


def test_without_keys_all_requests_are_one_persons() -> None:
    with ExitStack() as stack:
        assert fill(GrammarShares(), stack, "", 10) == 2 * MAX_GRAMMARS


@examples(100)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "1", "2", "33"]), st.booleans())))
def test_what_has_ended_is_counted_for_nobody(uses: list[tuple[str, str, bool]]) -> None:
    shares = GrammarShares()
    with ExitStack() as stack:
        for owner, grammar, stays in uses:
            if stays:
                stack.enter_context(shares.use(owner, grammar))
            else:
                with shares.use(owner, grammar):
                    shares.check()
            shares.check()
    shares.check()
    assert shares._in_use == {}


def test_whoever_has_all_of_his_share_in_use_is_told_so_and_another_is_answered(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.api.grammar_shares.MAX_GRAMMARS", 2)
    backend = FakeBackend(tokenizer)
    backend.delay_s = 0.2

    def ask(key: str, word: str, stream: bool = False) -> httpx.Request:
        body = {"prompt": "Say", "max_tokens": 100, "guided_choice": [word], "stream": stream}
        return served.http.build_request(
            "POST", "/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}
        )

    with Served(backend, keys=FakeKeys({"sk-1": FakeRecord("k1"), "sk-2": FakeRecord("k2")})) as served:
        under_way = served.http.send(ask("sk-1", "yes", stream=True), stream=True)
        lines = under_way.iter_lines()
        assert next(lines).startswith("data: ")
        refused = served.http.send(ask("sk-1", "no"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, LimitReached.code)
        other = served.http.send(ask("sk-2", "maybe", stream=True), stream=True)
        assert other.status_code == 200
        other.close()
        under_way.close()
        assert eventually(lambda: backend.running == 0)
        backend.delay_s = 0
        assert served.http.send(ask("sk-1", "no")).status_code == 200
