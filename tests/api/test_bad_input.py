"""Whatever is wrong with a request gets one sentence in OpenAI's shape that names the field, and disturbs nobody."""

import json
from typing import Any

import pytest

from tests.api.served import Served

HELLO = [{"role": "user", "content": "Hello"}]
SECRET = "my private words"


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": "fake", "messages": HELLO} | fields


def text(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"model": "fake", "prompt": "x"} | fields


def message(**fields: Any) -> tuple[str, dict[str, Any]]:
    return chat(messages=[{"role": "user", "content": "Hello"}, fields])


BAD = [
    (chat(temperature=2.5), "temperature", "invalid_request"),
    (chat(temperature=-0.1), "temperature", "invalid_request"),
    (chat(temperature="hot"), "temperature", "invalid_request"),
    (chat(temperature=True), "temperature", "invalid_request"),
    (chat(top_p=0), "top_p", "invalid_request"),
    (chat(top_p=1.5), "top_p", "invalid_request"),
    (chat(top_k=-2), "top_k", "invalid_request"),
    (chat(min_tokens=-1), "min_tokens", "invalid_request"),
    (chat(min_tokens=9, max_tokens=8), "min_tokens", "invalid_request"),
    (text(min_tokens=17), "min_tokens", "invalid_request"),
    (chat(top_k=1.5), "top_k", "invalid_request"),
    (chat(min_p=2), "min_p", "invalid_request"),
    (chat(repetition_penalty=0), "repetition_penalty", "invalid_request"),
    (chat(presence_penalty=3), "presence_penalty", "invalid_request"),
    (chat(frequency_penalty=-3), "frequency_penalty", "invalid_request"),
    (chat(seed=2**64), "seed", "invalid_request"),
    (chat(seed=1.5), "seed", "invalid_request"),
    (chat(logit_bias={"5": 200}), "logit_bias", "invalid_request"),
    (chat(logit_bias={"five": 1}), "logit_bias", "invalid_request"),
    (chat(logit_bias={"99999": 1}), "logit_bias", "invalid_request"),
    (chat(logit_bias=[1]), "logit_bias", "invalid_request"),
    (chat(stop_token_ids=[-1]), "stop_token_ids", "invalid_request"),
    (chat(stop_token_ids=[1] * 65), "stop_token_ids", "invalid_request"),
    (chat(n=0), "n", "invalid_request"),
    (chat(n=17), "n", "invalid_request"),
    (chat(n="two"), "n", "invalid_request"),
    (chat(stop=["a"] * 65), "stop", "invalid_request"),
    (chat(stop=["a" * 500] * 9), "stop", "invalid_request"),
    (chat(stop=""), "stop", "invalid_request"),
    (chat(stop=["x" * 501]), "stop", "invalid_request"),
    (chat(stop=[1]), "stop[0]", "invalid_request"),
    (chat(max_tokens=0), "max_tokens", "invalid_request"),
    (chat(max_completion_tokens=-5), "max_completion_tokens", "invalid_request"),
    (chat(max_tokens=5, max_completion_tokens=6), "max_tokens", "invalid_request"),
    (chat(max_completion_tokens=5000), "max_completion_tokens", "context_length_exceeded"),
    (chat(max_tokens=2**40), "max_tokens", "invalid_request"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_request"),
    (chat(top_logprobs=2), "top_logprobs", "invalid_request"),
    (chat(logprobs=2), "logprobs", "invalid_request"),
    (chat(stream_options={"include_usage": True}), "stream_options", "invalid_request"),
    (chat(stream="yes"), "stream", "invalid_request"),
    (chat(priority=3.5), "priority", "invalid_request"),
    (chat(user=5), "user", "invalid_request"),
    (chat(messages=[]), "messages", "invalid_request"),
    (chat(messages="Hello"), "messages", "invalid_request"),
    (chat(messages=None), "messages", "invalid_request"),
    (message(role="user"), "messages[1].content", "invalid_request"),
    (message(role="user", content=5), "messages[1].content", "invalid_request"),
    (message(content=SECRET), "messages[1].role", "invalid_request"),
    (message(role="wizard", content=SECRET), "messages[1].role", "invalid_request"),
    (message(role="user", content=[{"text": SECRET}]), "messages[1].content[0].type", "invalid_request"),
    (message(role="user", content=[{"type": "text"}]), "messages[1].content[0].text", "invalid_request"),
    (message(role="user", content="\ud800"), "messages[1].content", "invalid_request"),
    (text(prompt="\ud800"), "prompt", "invalid_request"),
    (text(prompt=[]), "prompt", "invalid_request"),
    (text(prompt=["x"] * 65), "prompt", "invalid_request"),
    (text(prompt=["x"] * 64, n=3), "n", "invalid_request"),
    (text(prompt=[0, 99999]), "prompt", "invalid_request"),
    (text(prompt=[-1]), "prompt", "invalid_request"),
    (text(prompt=["x", 1]), "prompt[1]", "invalid_request"),
    (text(prompt={"text": SECRET}), "prompt", "invalid_request"),
    (text(logprobs=21), "logprobs", "invalid_request"),
    (text(logprobs=True), "logprobs", "invalid_request"),
    # Asked for something that Muster does not do.
    (chat(response_format={"type": "structural_tag"}), "response_format", "unsupported"),
    (chat(tools=[{"type": "web_search"}]), "tools[0].type", "unsupported"),
    (chat(modalities=["text", "audio"]), "modalities", "unsupported"),
    (chat(web_search_options={}), "web_search_options", "unsupported"),
    (
        message(role="user", content=[{"type": "image_url", "image_url": {"url": "data:"}}]),
        "messages[1].content[0].type",
        "unsupported",
    ),
    (text(suffix="}"), "suffix", "unsupported"),
    (text(best_of=3), "best_of", "unsupported"),
    (chat(use_beam_search=True), "use_beam_search", "unsupported"),
    (text(truncate_prompt_tokens=5), "truncate_prompt_tokens", "unsupported"),
    (text(typical_p=0.5), "typical_p", "unsupported"),
]


@pytest.mark.parametrize(
    ("request_", "parameter", "code"), BAD, ids=[f"{parameter}-{i}" for i, (_, parameter, _) in enumerate(BAD)]
)
def test_a_wrong_field_is_named(
    served: Served, request_: tuple[str, dict[str, Any]], parameter: str | None, code: str
) -> None:
    path, body = request_
    answer = served.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"], error["type"]) == (parameter, code, "invalid_request_error")
    assert len(error["message"]) < 300
    assert SECRET not in answer.text
    assert served.backend.requests == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none_are_refused(served: Served, value: str) -> None:
    body = f'{{"model": "fake", "prompt": "x", "temperature": {value}}}'
    answer = served.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b'{"model": "fake",', "application/json", "not valid JSON"),
        (b"", "application/json", "not a JSON object"),
        (b"[]", "application/json", "not a JSON object"),
        (b'"text"', "application/json", "not a JSON object"),
        (b'{"model": "fake", "prompt": "x"}', "text/plain", "Content-Type: application/json"),
        (b'{"prompt": "\xff\xfe"}', "application/json", "cannot be read as JSON"),
        (b"[" * 100_000, "application/json", "cannot be read as JSON"),
        (b'{"model": "fake", "prompt": ' + b"[" * 800 + b"]" * 800 + b"}", "application/json", "prompt"),
    ],
)
def test_a_body_that_is_no_json_object_is_explained(served: Served, body: bytes, content_type: str, says: str) -> None:
    answer = served.http.post("/v1/completions", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid_request"


def test_harmless_values_of_fields_that_do_nothing_are_accepted(served: Served) -> None:
    path, body = chat(
        max_tokens=1, response_format={"type": "text"}, tools=[], tool_choice="none", functions=None, store=False,
        modalities=["text"], user="u", metadata={"a": "b"}, parallel_tool_calls=True, reasoning_effort=None, n=None,
        stop=None, logit_bias=None, stream=None, seed=None,
    )  # fmt: skip
    assert served.http.post(path, json=body).status_code == 200


def test_an_earlier_answer_of_the_client_library_can_be_sent_back(served: Served) -> None:
    with served.client() as client:
        first = client.chat.completions.create(model="fake", messages=HELLO, temperature=0)
    path, body = chat(messages=[*HELLO, first.choices[0].message.model_dump(), *HELLO], max_tokens=1)
    assert served.http.post(path, json=body).status_code == 200


def test_parts_of_text_are_joined(served: Served) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    for content in (parts, "Hello"):
        path, body = chat(messages=[{"role": "user", "content": content}], max_tokens=1)
        assert served.http.post(path, json=body).status_code == 200
    assert len({request.prompt for request in served.backend.requests}) == 1


def test_paths_and_methods_that_do_not_exist_are_refused_in_the_same_shape(served: Served) -> None:
    lost = served.http.get("/v1/embeddings")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")
    wrong = served.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")
