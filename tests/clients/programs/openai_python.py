"""The stock OpenAI client: streams, parsed forms, tools, scores and responses."""

import json

from calls import KEY, MODEL, PROMPT, URL, WEATHER, run_calls
from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=240)
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}


class Trip(BaseModel):
    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


def can_list_models():
    assert MODEL in [model.id for model in client.models.list()]


def can_stream_a_completion():
    fields = {"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    whole = client.completions.create(**fields).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**fields, stream=True)) == whole


def can_stream_a_chat():
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=16, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def can_score_a_prompt():
    scores = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=0, echo=True, logprobs=1).choices[0]
    assert scores.logprobs.token_logprobs[0] is None
    assert all(score <= 0 for score in scores.logprobs.token_logprobs[1:])


def can_parse_a_form():
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Trip, max_tokens=200)
    assert 1 <= answer.choices[0].message.parsed.days <= 9


def can_call_a_tool_in_a_stream():
    chunks = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=200, stream=True
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert calls[0].function.name == "weather"
    assert set(json.loads("".join(call.function.arguments or "" for call in calls if call.index == 0))) == {
        "city",
        "days",
    }


def can_hand_back_a_tools_result():
    said = (
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            tools=[TOOL],
            tool_choice="required",
            max_tokens=200,
            parallel_tool_calls=False,
        )
        .choices[0]
        .message
    )
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "rain"}
    answer = client.chat.completions.create(model=MODEL, messages=[*MESSAGES, said, result], tools=[TOOL], max_tokens=8)
    assert 0 < answer.usage.completion_tokens <= 8


def can_use_responses():
    answer = client.responses.create(model=MODEL, input="Say something.", max_output_tokens=16)
    assert answer.output_text
    events = list(client.responses.create(model=MODEL, input="Say something.", max_output_tokens=16, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")


def can_parse_a_response():
    answer = client.responses.parse(model=MODEL, input="Plan a trip.", text_format=Trip, max_output_tokens=200)
    assert 1 <= answer.output_parsed.days <= 9


if __name__ == "__main__":
    run_calls(globals())
