"""Messages to prompts."""

import pytest

from muster.errors import InvalidRequest
from muster.text.chat import Message, render_chat
from muster.text.tokenizer import Tokenizer
from tests.text.small_tokenizers import Converted

CHATML = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


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


def test_without_a_template_the_plain_form_is_used(byte_level: Tokenizer) -> None:
    chat = render_chat(
        byte_level, [Message("developer", "Be terse."), Message("user", "Hi"), Message("assistant", "Yo")]
    )
    assert chat.text == "System: Be terse.\n\nUser: Hi\n\nAssistant: Yo\n\nAssistant:"
    assert chat.add_special_tokens
    assert chat.stop == ("\nUser:",)
