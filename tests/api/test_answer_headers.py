"""What an answer says besides its body: names, limits, times."""

import re

import pytest

from muster.api.answer_headers import client_request_id, duration
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served

BODY = {"model": "fake", "prompt": "x", "max_tokens": 3, "seed": 1}


def test_a_request_keeps_the_name_that_its_client_gives_it(served: Served) -> None:
    named = served.http.post("/v1/completions", json=BODY, headers={"x-request-id": "mine-1"})
    assert named.headers.get_list("x-request-id") == ["mine-1"]
    again = served.http.post("/v1/completions", json=BODY, headers={"x-request-id": "mine-1"})
    assert again.json()["id"] != named.json()["id"]
    odd = served.http.post("/v1/completions", json=BODY, headers={"x-request-id": "a b"})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])


@pytest.mark.parametrize("written", [None, "", "a b", "é", "a\r\nb", "x" * 129, "<b>"])
def test_what_is_no_name_is_not_repeated(written: str | None) -> None:
    assert client_request_id(written) is None


def test_a_key_hears_what_it_may_still_use(tokenizer: Tokenizer) -> None:
    keys = FakeKeys({"sk-1": FakeRecord("k1", requests_per_minute=2, tokens_per_minute=600), "sk-2": FakeRecord("k2")})
    with Served(FakeBackend(tokenizer), keys=keys) as served:
        said = [served.http.post("/v1/completions", json=BODY, headers={"x-api-key": "sk-1"}) for _ in range(3)]
        assert [answer.status_code for answer in said] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in said] == ["1", "0", "0"]
        for answer in said:
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-limit-tokens"] == "600"
            assert re.fullmatch(r"(\d+m)?\d+s", answer.headers["x-ratelimit-reset-requests"])
        left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in said]
        assert left[0] >= left[1]
        assert left[1] < 600
        unlimited = served.http.post("/v1/completions", json=BODY, headers={"authorization": "Bearer sk-2"})
        assert not any(name.startswith("x-ratelimit") for name in unlimited.headers)


@pytest.mark.parametrize(("seconds", "said"), [(0, "0s"), (0.2, "1s"), (59.5, "1m0s"), (90, "1m30s"), (1e9, "60m0s")])
def test_durations_are_whole_seconds(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_an_answer_says_where_its_time_went(served: Served) -> None:
    for stream in (False, True):
        answer = served.http.post("/v1/completions", json=BODY | {"stream": stream})
        spans = dict(re.findall(r"([a-z-]+);dur=([0-9.]+)", answer.headers["server-timing"]))
        assert set(spans) == {"prepare", "first-token", "total"}
        assert float(spans["prepare"]) + float(spans["first-token"]) <= float(spans["total"]) + 0.2
    assert "server-timing" not in served.http.get("/v1/models").headers


def test_a_page_may_read_them(served: Served) -> None:
    answer = served.http.post("/v1/completions", json=BODY, headers={"origin": "http://localhost:3000"})
    assert "server-timing" in answer.headers["access-control-expose-headers"]
