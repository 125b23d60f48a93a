"""Tools in plain words: what the prompt says, and that nothing of a conversation is lost."""

import json

from muster.text.calls import Message, Tool, ToolCall
from muster.text.chat import render_chat
from muster.text.tokenizer import Tokenizer
from muster.text.tools.fallback import in_plain_words, with_names_of_results
from tests.text.small_tokenizers import Converted

WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
CALLS = (ToolCall("a", "get_weather", '{"city": "Paris"}'), ToolCall("b", "get_weather", "{}"))
MESSAGES = [
    Message("system", "Be terse."),
    Message("user", "How is it?"),
    Message("assistant", "I look.", tool_calls=CALLS),
    Message("tool", "21", tool_call_id="a"),
    Message("tool", "25", tool_call_id="b"),
]


def test_definitions_calls_and_results_are_said_in_words() -> None:
    system, user, assistant, results = in_plain_words(with_names_of_results(MESSAGES), [WEATHER], True)
    assert system.content.startswith("Be terse.\n\nYou may call one or more functions")
    definition = system.content.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert json.loads(definition)["function"]["parameters"] == WEATHER.parameters
    assert user == MESSAGES[1]
    assert assistant.content.startswith('I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}')
    assert assistant.content.count("</tool_call>") == 2
    assert results.role == "user"
    assert results.content.count("<tool_response>") == 2
    assert '{"name": "get_weather", "content": "25"}' in results.content


def test_a_model_without_a_system_message_is_told_by_the_user() -> None:
    (only,) = in_plain_words([Message("user", "How is it?")], [WEATHER], takes_system=False)
    assert (only.role, only.content.endswith("</tool_call>\n\nHow is it?")) == ("user", True)
    told, user = in_plain_words([Message("user", "How is it?")], [WEATHER], takes_system=True)
    assert (told.role, user.content) == ("system", "How is it?")


def test_without_tools_nothing_changes() -> None:
    plain = [Message("user", "x"), Message("assistant", "y")]
    assert in_plain_words(plain, [], True) == plain


def test_a_template_without_tools_gets_them_in_words_and_one_with_tools_gets_them_itself(converted: Converted) -> None:
    each = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    plain = converted.tokenizer(chat_template=each)
    assert not plain.conventions.takes_tools
    assert "<tools>" in render_chat(plain, MESSAGES, tools=[WEATHER]).text
    calls = "{% for c in m.tool_calls or [] %}!{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    own = converted.tokenizer(
        chat_template="[{% for t in tools or [] %}{{ t | tojson }}{% endfor %}]"
        + each.replace("{% endfor", calls + "{% endfor")
    )
    assert own.conventions.takes_tools
    text = render_chat(own, MESSAGES, tools=[WEATHER]).text
    assert text.startswith('[{"type": "function"')
    assert '!get_weather{"city": "Paris"}' in text
    no_system = each.replace("<|", "{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}<|")
    assert "<tools>" in render_chat(converted.tokenizer(chat_template=no_system), MESSAGES[1:2], tools=[WEATHER]).text


def test_without_a_template_the_plain_form_tells_of_tools(byte_level: Tokenizer) -> None:
    text = render_chat(byte_level, MESSAGES, tools=[WEATHER]).text
    assert text.startswith("System: Be terse.\n\nYou may call")
    assert text.endswith("</tool_response>\n\nAssistant:")
