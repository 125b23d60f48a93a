"""Messages to prompts."""

import pytest

from muster.errors import InvalidRequest, Unsupported
from muster.text.chat import Message, render_chat
from muster.text.tokenizer import Tokenizer
from tests.text.small_tokenizers import Converted

CHATML = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HI = [Message("user", "Hi")]


def test_the_models_own_template_is_used(converted: Converted) -> None:
    tokenizer = converted.tokenizer(chat_template=CHATML)
    chat = render_chat(tokenizer, [Message("system", "Be terse."), Message("user", "Hi")])
    assert chat.text == "<|system|>Be terse.\n<|user|>Hi\n<|assistant|>"
    assert not chat.add_special_tokens
    assert chat.stop == ()


def test_developer_becomes_system_where_the_template_knows_no_developer(converted: Converted) -> None:
    tokenizer = converted.tokenizer(chat_template=CHATML)
    assert render_chat(tokenizer, [Message("developer", "x")]).text.startswith("<|system|>x")
    knowing = converted.tokenizer(chat_template=CHATML.replace("'system',", "'system', 'developer',"))
    assert render_chat(knowing, [Message("developer", "x")]).text.startswith("<|developer|>x")


def test_what_a_template_refuses_is_the_callers_error(converted: Converted) -> None:
    refusing = converted.tokenizer(chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render_chat(refusing, [Message("user", "a")])
    assert caught.value.parameter == "messages"


def test_a_template_cannot_leave_its_sandbox(converted: Converted) -> None:
    escaping = converted.tokenizer(chat_template="{{ messages.__class__.__base__.__subclasses__() | length }}")
    with pytest.raises(InvalidRequest, match="template refuses"):
        render_chat(escaping, [Message("user", "a")])


def test_what_ends_a_turn_ends_an_answer_though_it_is_an_ordinary_entry(converted: Converted) -> None:
    template = CHATML.replace("\n{%", "<end_of_turn>\n{%")
    described = converted.described(lambda entries: entries["model"]["vocab"].update({"<end_of_turn>": 450}))
    tokenizer = converted.tokenizer(chat_template=template, tokenizer_json=described)
    assert tokenizer.end_of_text_ids == (0, 450)
    assert converted.tokenizer(tokenizer_json=described).end_of_text_ids == (0,)


def test_of_several_templates_the_usual_one_is_taken_or_none(converted: Converted) -> None:
    several = {"tool_use": "nothing", "rag": "{{ messages }}"}
    assert render_chat(converted.tokenizer(chat_templates=several | {"default": CHATML}), HI).text.startswith(
        "<|user|>"
    )
    assert render_chat(converted.tokenizer(chat_templates={"only": CHATML}), HI).text.startswith("<|user|>")
    with pytest.raises(Unsupported, match=r"one of several \(rag, tool_use\), and none is called default"):
        render_chat(converted.tokenizer(chat_templates=several), HI)
    with pytest.raises(Unsupported, match=r"chat template cannot be read \(.*\), so it is not used"):
        render_chat(converted.tokenizer(chat_template="{% for m in %}"), HI)


def test_without_a_template_the_plain_form_is_used(byte_level: Tokenizer) -> None:
    chat = render_chat(
        byte_level, [Message("developer", "Be terse."), Message("user", "Hi"), Message("assistant", "Yo")]
    )
    assert chat.text == "System: Be terse.\n\nUser: Hi\n\nAssistant: Yo\n\nAssistant:"
    assert chat.add_special_tokens
    assert chat.stop == ("\nUser:",)
