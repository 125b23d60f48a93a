"""LangChain's ChatOpenAI: messages, streams, structured output and bound tools."""

from calls import KEY, MODEL, URL, run_calls
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

AT = {"model": MODEL, "base_url": URL, "api_key": KEY, "timeout": 240, "max_retries": 0}


class Trip(BaseModel):
    """A trip to a city."""

    model_config = ConfigDict(extra="forbid")  # else a model that follows no instructions adds fields for ever
    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


def can_chat_and_stream():
    chat = ChatOpenAI(max_tokens=8, **AT)
    assert chat.invoke("Say something.").usage_metadata["output_tokens"] <= 8
    assert len(list(chat.stream("Say something."))) > 1


def can_complete_a_text():
    assert OpenAI(max_tokens=8, **AT).invoke("def main():")


def can_fill_in_a_form():
    trip = ChatOpenAI(max_tokens=200, **AT).with_structured_output(Trip, method="json_schema").invoke("Plan a trip.")
    assert 1 <= trip.days <= 9


def can_call_a_bound_tool():
    answer = ChatOpenAI(max_tokens=200, **AT).bind_tools([Trip], tool_choice="Trip").invoke("Plan a trip.")
    assert answer.tool_calls[0]["name"] == "Trip"
    assert set(answer.tool_calls[0]["args"]) == {"city", "days"}


if __name__ == "__main__":
    run_calls(globals())
