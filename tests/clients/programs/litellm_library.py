"""LiteLLM as a library: chats, streams, tools and text completions through its openai providers."""

import json

import litellm
from calls import KEY, MODEL, PROMPT, URL, WEATHER, run_calls

MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
AT = {"api_base": URL, "api_key": KEY, "timeout": 240}


def can_chat():
    answer = litellm.completion(model=f"openai/{MODEL}", messages=MESSAGES, max_tokens=8, **AT)
    assert 0 < answer.usage.completion_tokens <= 8


def can_stream():
    chunks = litellm.completion(model=f"openai/{MODEL}", messages=MESSAGES, max_tokens=8, stream=True, **AT)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in ("length", "stop")


def can_complete_a_text():
    answer = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt=PROMPT, max_tokens=8, **AT)
    assert answer.choices[0].text


def can_call_a_tool():
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    answer = litellm.completion(
        model=f"openai/{MODEL}", messages=MESSAGES, tools=[tool], tool_choice="required", max_tokens=200, **AT
    )
    assert set(json.loads(answer.choices[0].message.tool_calls[0].function.arguments)) == {"city", "days"}


if __name__ == "__main__":
    run_calls(globals())
