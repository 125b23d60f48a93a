"""pydantic-ai: an agent whose output is a type, by tool and by schema."""

from calls import KEY, MODEL, URL, run_calls
from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

SETTINGS = {"max_tokens": 200, "timeout": 240}


class Trip(BaseModel):
    model_config = ConfigDict(extra="forbid")  # else a model that follows no instructions adds fields for ever
    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


def agent(output) -> Agent:
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
    return Agent(model, output_type=output, model_settings=SETTINGS)


def can_run_an_agent():
    assert agent(str).run_sync("Say something.").usage


def can_get_a_type_by_tool():
    assert 1 <= agent(ToolOutput(Trip)).run_sync("Plan a trip.").output.days <= 9


def can_get_a_type_by_schema():
    assert 1 <= agent(NativeOutput(Trip)).run_sync("Plan a trip.").output.days <= 9


if __name__ == "__main__":
    run_calls(globals())
