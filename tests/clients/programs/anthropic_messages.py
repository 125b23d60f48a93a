"""Anthropic's package on /v1/messages: answers, streams, tools and counts."""

from anthropic import Anthropic
from calls import KEY, MODEL, ROOT, WEATHER, run_calls

client = Anthropic(base_url=ROOT, api_key=KEY, max_retries=0, timeout=240)
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]


def can_get_a_message():
    answer = client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=8, system="Be brief.")
    assert 0 < answer.usage.output_tokens <= 8
    assert answer.stop_reason in ("max_tokens", "end_turn")


def can_stream_a_message():
    with client.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=8) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().content[0].text == text


def can_call_a_tool():
    tool = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
    answer = client.messages.create(
        model=MODEL, messages=MESSAGES, max_tokens=200, tools=[tool], tool_choice={"type": "any"}
    )
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert set(calls[0].input) == {"city", "days"}


def can_count_tokens():
    assert client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens > 5


if __name__ == "__main__":
    run_calls(globals())
