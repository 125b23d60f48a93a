"""Templates write here what the library that defines them makes of them."""

import pytest

from muster.text.sandbox.loop import Refusal
from muster.text.sandbox.template import ChatTemplate
from tests.text.small_tokenizers import Converted

MESSAGES = [{"role": "user", "content": "Grüße <b> & 'more'"}, {"role": "assistant", "content": "hi"}]
SOURCES = [
    "{% for m in messages %}\n  {{ m.role }}\n  {%- if loop.last %} last{% endif %}\n{% endfor %}",
    "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|{{ messages[0] | tojson(ensure_ascii=true) }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{% set ns = namespace(last='') %}{% for m in messages %}{% set ns.last = m.role %}{% endfor %}{{ ns.last }}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}a{{ x }}{% endgeneration %}{{ x }}",
    "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}",
    "{{ dict(a=1, b=2).items() | list }}{{ 'x' if tools else 'y' }}{{ undefined_one }}",
    "{{ strftime_now('%Y') | length }}{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0].content) }}",
    "{{ messages[0].get('name', 'none') }}{{ messages[::-1][0].role }}{{ messages[1:] | length }}",
    "{%- if messages[0]['role'] == 'system' -%}a{%- else -%}{%- set system = 'd' -%}{%- endif -%}{{ system }}",
]


@pytest.mark.parametrize("source", SOURCES)
def test_a_template_writes_what_transformers_writes(converted: Converted, source: str) -> None:
    hugging_face = converted.tokenizer().hugging_face
    expected = hugging_face.apply_chat_template(
        MESSAGES, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(source, converted.description.named_tokens).render(MESSAGES, {}) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% set ns = namespace(__init__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ strftime_now.__globals__ }}{{ strftime_now.__globals__['json'] }}",
        "{{ dict.__subclasses__() }}",
        "{{ ''.format_map }}{{ '{0.__class__.__mro__}'.format(messages) }}",
    ],
)
def test_a_template_reaches_nothing_of_python(source: str) -> None:
    try:
        text = ChatTemplate(source, {}).render(MESSAGES, {})
    except Exception as error:
        assert type(error).__name__ in ("SecurityError", "UndefinedError"), error  # noqa: PT017 - or it is empty
    else:
        assert not any(word in text for word in ("class", "object", "module"))


def test_a_template_that_writes_without_end_is_stopped() -> None:
    endless = ChatTemplate("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", {})
    with pytest.raises(Refusal, match="writes more than 16777216 characters"):
        endless.render(MESSAGES, {})
