"""OpenAI's Agents SDK: a run with its default model, which uses /v1/responses, and one over chat completions."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from calls import KEY, MODEL, URL, run_calls
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def weather(days: int) -> str:
    """The weather of the next days."""
    return f"rain for {days} days"


def agent(kind, **more) -> Agent:
    client = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=240)
    return Agent(name="guide", instructions="Answer.", model=kind(model=MODEL, openai_client=client), **more)


def can_run_over_responses():
    settings = ModelSettings(max_tokens=16)
    assert Runner.run_sync(agent(OpenAIResponsesModel, model_settings=settings), "Say something.").final_output


def can_run_over_chat_completions():
    settings = ModelSettings(max_tokens=16)
    assert Runner.run_sync(agent(OpenAIChatCompletionsModel, model_settings=settings), "Say something.").final_output


def can_call_its_tool():
    settings = ModelSettings(max_tokens=100, tool_choice="required")
    one = agent(
        OpenAIChatCompletionsModel, tools=[weather], tool_use_behavior="stop_on_first_tool", model_settings=settings
    )
    assert "rain" in Runner.run_sync(one, "How is the weather?").final_output


if __name__ == "__main__":
    run_calls(globals())
