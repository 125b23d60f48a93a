"""A body made to be slow to read: the first fault ends it, so that one client never holds up the event loop."""

import threading
import time
from typing import Any

import pytest
from pydantic import ValidationError

from muster.api.chat_fields import MAX_PIECES, ChatRequest
from muster.api.completions import MAX_IDS, CompletionRequest
from muster.errors import InvalidRequest
from muster.text.tokenizer import Tokenizer

MANY = 30_000
NONSENSE: dict[str, Any] = {f"field{i}": 1 for i in range(MANY)}
HELLO: dict[str, Any] = {"role": "user", "content": "Hello"}


def chat(**fields: Any) -> tuple[type, dict[str, Any]]:
    return ChatRequest, {"model": "fake", "messages": [HELLO]} | fields


def text(**fields: Any) -> tuple[type, dict[str, Any]]:
    return CompletionRequest, {"model": "fake", "prompt": "x"} | fields


@pytest.mark.parametrize(
    "hostile",
    [
        text(**NONSENSE),
        text(prompt=[[], {}] * MANY),
        text(prompt=[[None] * MANY]),
        text(prompt=[None] * MANY),
        text(stop=[None] * MANY),
        text(stop_token_ids=[None] * MANY),
        text(stream_options=NONSENSE),
        chat(messages=[{}] * 9_000),
        chat(messages=[HELLO | NONSENSE]),
        chat(messages=[{"role": "user", "content": [{}] * 9_000}]),
        chat(messages=[{"role": "user", "content": [{"type": "text"} | NONSENSE]}]),
    ],
)
def test_faults_without_number_are_not_collected(hostile: tuple[Any, dict[str, Any]]) -> None:
    body, fields = hostile
    with pytest.raises(ValidationError) as caught:
        body.model_validate(fields)
    assert caught.value.error_count() < 20


@pytest.mark.parametrize(
    ("hostile", "parameter"),
    [
        (text(prompt=[0] * (MAX_IDS + 1)), "prompt"),
        (text(prompt=[[0] * (MAX_IDS // 2)] * 2), "prompt"),
        (text(logit_bias=NONSENSE), "logit_bias"),
        (chat(metadata=NONSENSE), "metadata"),
        (chat(messages=[HELLO] * (MAX_PIECES + 1)), "messages"),
        (chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * MAX_PIECES}]), "messages"),
    ],
)
def test_more_entries_than_anybody_needs_are_refused_unread(
    hostile: tuple[Any, dict[str, Any]], parameter: str
) -> None:
    body, fields = hostile
    with pytest.raises(InvalidRequest) as caught:
        body.model_validate(fields)
    assert caught.value.parameter == parameter


def test_the_interpreter_goes_on_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    encoding = threading.Thread(target=tokenizer.encode, args=("def fibonacci " * 10_000,))
    started, longest_s, last_s = time.perf_counter(), 0.0, time.perf_counter()
    encoding.start()
    while encoding.is_alive():
        time.sleep(0.001)
        now_s = time.perf_counter()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    assert longest_s < max(0.1, (last_s - started) / 2)
