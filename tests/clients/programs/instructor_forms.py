"""Instructor: typed answers by tools, by schema and by JSON."""

import instructor
from calls import KEY, MODEL, URL, run_calls
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field


class Trip(BaseModel):
    model_config = ConfigDict(extra="forbid")  # else a model that follows no instructions adds fields for ever
    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


def typed(mode: instructor.Mode) -> Trip:
    client = instructor.from_openai(OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=240), mode=mode)
    return client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Plan a trip."}],
        response_model=Trip,
        max_tokens=200,
        max_retries=0,
    )


def can_get_a_type_by_tools():
    assert 1 <= typed(instructor.Mode.TOOLS).days <= 9


def can_get_a_type_by_schema():
    assert 1 <= typed(instructor.Mode.JSON_SCHEMA).days <= 9


if __name__ == "__main__":
    run_calls(globals())
