"""Texts and messages to ids, and ids to text."""

import json
from typing import Any

import pytest

from tests.api.served import Served

HELLO = [{"role": "user", "content": "Hello"}]


def test_a_text_becomes_ids_and_comes_back(served: Served) -> None:
    answer = served.http.post("/tokenize", json={"prompt": "Hello, café", "return_token_strs": True}).json()
    assert answer["tokens"] == served.backend.tokenizer.encode("Hello, café")
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 512)
    assert len(answer["token_strs"]) == answer["count"]
    assert served.http.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": "Hello, café"}


def test_messages_become_the_ids_of_their_prompt(served: Served) -> None:
    answer = served.http.post("/tokenize", json={"model": "fake", "messages": HELLO}).json()
    served.http.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1})
    assert tuple(answer["tokens"]) == served.backend.requests[0].prompt
    assert answer["token_strs"] is None


def test_a_text_longer_than_the_context_is_counted(served: Served) -> None:
    assert served.http.post("/tokenize", json={"prompt": "Hello " * 2000}).json()["count"] > 512
    too_long = served.http.post("/tokenize", json={"prompt": "x9" * 150_000})
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": HELLO}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/detokenize", {"tokens": [99999]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_what_is_wrong_is_named(served: Served, path: str, body: dict[str, Any], parameter: str) -> None:
    answer = served.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, parameter)
