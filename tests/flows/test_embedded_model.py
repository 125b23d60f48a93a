"""The model that comes with Muster, in four stages: its answers look like Python."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.live_pool import LivePool

PROMPT = "import os\n\n\ndef read_text(path):\n    "


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePool]:
    with LivePool(tmp_path_factory.mktemp("tiny"), "tiny") as pool:
        pool.until_serving(stages=4)
        yield pool


def test_a_completion_looks_like_python(tiny: LivePool) -> None:
    answer = tiny.client().completions.create(model="tiny", prompt=PROMPT, max_tokens=48, temperature=0)
    text = answer.choices[0].text
    assert "\n    " in text
    assert any(word in text for word in ("return", "with", "if ", "for ", "open", '"""'))


def test_a_stop_string_of_several_tokens_is_left_out(tiny: LivePool) -> None:
    answer = tiny.client().completions.create(
        model="tiny", prompt=PROMPT, max_tokens=200, temperature=0, stop=["\n\n"], logprobs=0
    )
    assert "\n\n" not in answer.choices[0].text
    assert "".join(answer.choices[0].logprobs.tokens).startswith(answer.choices[0].text[:20])


def test_a_tool_is_called_where_that_is_demanded(tiny: LivePool) -> None:
    form = {"type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}}}
    form |= {"required": ["days"], "additionalProperties": False}
    weather: Any = {"type": "function", "function": {"name": "weather", "parameters": form}}
    asked: Any = [{"role": "user", "content": "How is the weather in Oslo?"}]
    answer = tiny.client().chat.completions.create(
        model="tiny", messages=asked, tools=[weather], tool_choice="required", parallel_tool_calls=False, max_tokens=200
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "weather"
    assert 1 <= json.loads(call.function.arguments)["days"] <= 9
