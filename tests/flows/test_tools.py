"""Calls of tools from a pool of four machines: its random model follows no instructions, and makes valid calls all the
same where they are demanded."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from transformers import PreTrainedModel

from muster.serve.constrain import Constraints
from tests.flows.live_pool import LivePool
from tests.text.small_tokenizers import save, train_byte_level

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function | tojson }}\n{% endfor %}{% for m in messages %}"
    "{{ m.role }}: {{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ANOTHER = json.loads(json.dumps(WEATHER).replace("Rome", "Oslo"))
"""With a grammar that no stage has seen."""
ASK: Any = {
    "messages": [{"role": "user", "content": "How is it?"}],
    "tools": [WEATHER],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 200,
    "seed": 13,  # with few tabs and spaces between the words: each is a step of four stages
}


@pytest.fixture(scope="module")
def callers(dense: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePool]:
    folder = save(train_byte_level(), tmp_path_factory.mktemp("models") / "callers", chat_template=TEMPLATE)
    dense.save_pretrained(folder)
    with LivePool(tmp_path_factory.mktemp("pool"), str(folder)) as pool:
        pool.until_serving(stages=4)
        yield pool


@pytest.fixture
def ask(callers: LivePool) -> Any:
    create = callers.client().chat.completions.create
    return lambda **fields: create(model=callers.model.shape.name, **{**ASK, **fields})


def check_call(name: str, arguments: str) -> None:
    value = json.loads(arguments)
    assert name == "get_weather"
    assert set(value) == {"city", "days"}
    assert value["city"] in ("Paris", "Rome")
    assert 1 <= value["days"] <= 9


def test_a_demanded_call_is_a_valid_one_and_its_result_can_be_sent_back(callers: LivePool, ask: Any) -> None:
    assert callers.model.tokenizer.conventions.takes_tools
    choice = ask().choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    check_call(call.function.name, call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    messages = [*ASK["messages"], choice.message, result]
    assert ask(messages=messages, tool_choice="none", max_tokens=8).choices[0].message.tool_calls is None


def streamed(ask: Any, then: Callable[[], object] = lambda: None) -> tuple[list[str], str, str]:
    """Ids, name and arguments of the one call of a stream; `then` is done once its arguments have begun."""
    ids, name, arguments, done = [], "", "", False
    for chunk in ask(stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            ids += [call.id] if call.id else []
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        if arguments and not done:
            done = True
            then()
    return ids, name, arguments


def test_the_last_machine_dies_while_it_makes_sense_of_a_demand(
    callers: LivePool, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, dead, prepare = Event(), Event(), Constraints.prepare

    def prepare_too_late(constraints: Constraints, number: int, grammar: str) -> str:
        if not began.is_set():
            began.set()
            dead.wait(90)
        return prepare(constraints, number, grammar)

    monkeypatch.setattr(Constraints, "prepare", prepare_too_late)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, tools=[ANOTHER])
        try:
            assert began.wait(60)
            callers.kill(callers.serving(3))
            (call,) = answer.result(90).choices[0].message.tool_calls
        finally:
            dead.set()
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Oslo")
    callers.add_machine()  # in the place of the lost one


@pytest.mark.chaos
def test_a_call_in_the_middle_of_which_a_machine_dies_is_the_one_that_it_would_have_been(
    callers: LivePool, ask: Any
) -> None:
    """The last test of the pool: it loses a machine."""
    _, name, arguments = streamed(ask)
    check_call(name, arguments)
    before = callers.sessions.state.resubmissions
    ids, name_after, arguments_after = streamed(ask, lambda: callers.kill(callers.serving(-1)))
    assert callers.sessions.state.resubmissions > before
    assert (name_after, arguments_after) == (name, arguments)
    assert len(ids) == 1
