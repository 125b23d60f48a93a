"""Whatever form a template wants tools, calls and results in, all of it comes out, or is refused by name."""

import json

import pytest

from muster.text.calls import Ending, Message, Render, Tool, ToolCall
from muster.text.sandbox.loop import Refusal
from muster.text.sandbox.template import ChatTemplate
from muster.text.sandbox.turns import Turns

TOOLS = "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
EACH = "{% for m in messages %}"
END = "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
TEXT = "<{{ m.role }}>{{ m.content }}"
JSON_CALL = '<call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
CALLS = "{% if m.tool_calls %}{% for c in m.tool_calls %}CALL{% endfor %}{% endif %}"


def template(call: str, text: str = TEXT, tools: str = TOOLS) -> str:
    return tools + EACH + text + CALLS.replace("CALL", call) + END


TEMPLATES = {
    "arguments as an object": template(JSON_CALL),
    "arguments as text": template(JSON_CALL.replace(" | tojson", "")),
    "arguments as text, joined": template("{{ '<call>' + c.function.name + c.function.arguments }}"),
    "arguments one by one": template(
        "<f={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<p={{ k }}>{{ v }}{% endfor %}"
    ),
    "either": template(
        "{{ c.function.name }}{% if c.function.arguments is string %}{{ c.function.arguments }}"
        "{% else %}{{ c.function.arguments | tojson }}{% endif %}"
    ),
    "the whole call": template("{{ c | tojson }}"),
    "no content beside calls": template(
        JSON_CALL,
        "{% if m.role == 'assistant' and m.content is none %}<only calls>"
        "{% else %}{% if m.role == 'assistant' and m.tool_calls %}{{ raise_exception('both') }}{% endif %}"
        + TEXT
        + "{% endif %}",
    ),
    "short ids": template(
        "{% if c.id | length != 9 %}{{ raise_exception('ids must have length 9') }}{% endif %}[{{ c.id }}]" + JSON_CALL
    ),
    "content in parts": template(JSON_CALL, "<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}"),
    "names of results": template(
        JSON_CALL, "<{{ m.role }}{% if m.role == 'tool' %} {{ m.name }}{% endif %}>{{ m.content }}"
    ),
}
CALL = ToolCall("call_123456", "get_weather", '{"city": "Paris"}')
WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
MESSAGES = [
    Message("user", "How is it?"),
    Message("assistant", "", tool_calls=(CALL, ToolCall("call_7", "get_weather", '{"city": "Rome"}'))),
    Message("tool", "21 degrees", "get_weather", tool_call_id="call_123456"),
    Message("tool", "25 degrees", "get_weather", tool_call_id="call_7"),
]


def turns(source: str) -> Turns:
    return Turns(ChatTemplate(source, {}))


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_loses_a_tool_a_call_or_a_result(name: str) -> None:
    found = turns(TEMPLATES[name])
    assert found.takes_tools()
    assert found.takes_several_calls()
    text = found.render(Render(MESSAGES, {}, [WEATHER]))
    for word in ("The weather.", "How is it?", "get_weather", "Paris", "Rome", "21 degrees", "25 degrees"):
        assert word in text
    assert "'city'" not in text
    assert '\\"city' not in text
    assert text.endswith("<a>")


def test_short_ids_are_the_same_in_call_and_result() -> None:
    source = TEMPLATES["short ids"].replace("{{ m.content }}", "{{ m.content }}{{ m.tool_call_id }}")
    text = turns(source).render(Render(MESSAGES, {}, [WEATHER]))
    short = text.partition("[")[2].partition("]")[0]
    assert len(short) == 9
    assert text.count(short) == 2


@pytest.mark.parametrize(
    ("source", "lost"),
    [
        (template(JSON_CALL, tools=""), "tools[0]"),
        (template(JSON_CALL, tools="{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"), "tools[0]"),
        (template("<call>"), "messages[1].tool_calls"),
        (
            template(JSON_CALL.replace("| tojson", "")).replace("c.function.arguments ", "'{}'"),
            "messages[1].tool_calls",
        ),
        (template(JSON_CALL, "{% if m.role != 'tool' %}" + TEXT + "{% endif %}"), "messages[2] (from tool)"),
    ],
)
def test_what_a_template_would_leave_out_is_named(source: str, lost: str) -> None:
    assert not turns(source).takes_tools()
    with pytest.raises(Refusal) as caught:
        turns(source).render(Render(MESSAGES, {}, [WEATHER]))
    assert (caught.value.failed.kind, caught.value.failed.reason) == ("lost", lost)


def test_a_template_that_takes_one_call_at_a_time_is_found_out() -> None:
    single = template(JSON_CALL).replace("{% if m.tool_calls %}", "{% if m.tool_calls %}" + (
        "{% if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls') }}{% endif %}"
    ))  # fmt: skip
    assert turns(single).takes_tools()
    assert not turns(single).takes_several_calls()


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_reasoning_has_the_name_that_the_template_knows(name: str) -> None:
    source = EACH + "{% if m." + name + " %}<think>{{ m." + name + " }}</think>{% endif %}" + TEXT + END
    messages = [Message("user", "x"), Message("assistant", "y", reasoning="so"), Message("user", "z")]
    assert "<think>so</think>" in turns(source).render(Render(messages, {}))


def test_a_prompt_may_end_inside_or_after_the_last_message() -> None:
    source = EACH + "<{{ m.role }}>{{ m.content | trim }}<end>\n" + END
    messages = [Message("user", "Hi"), Message("assistant", "It is ")]
    found = turns(source)
    assert found.render(Render(messages, {}, ending=Ending.INSIDE_LAST)) == "<user>Hi<end>\n<assistant>It is"
    assert found.render(Render(messages, {}, ending=Ending.AFTER_LAST)).endswith("It is<end>\n")
    kept = turns(source.replace(" | trim", ""))
    assert kept.render(Render(messages, {}, ending=Ending.INSIDE_LAST)).endswith("<assistant>It is ")


def test_definitions_are_what_transformers_hands_to_templates() -> None:
    text = turns("{{ tools | tojson }}{{ messages[0].content }}").render(Render([Message("user", "")], {}, [WEATHER]))
    assert json.loads(text) == [
        {
            "type": "function",
            "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER.parameters},
        }
    ]
