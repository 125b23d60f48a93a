"""Whatever form a template wants, each word of a conversation comes out, or the conversation is refused by name."""

import pytest

from muster.text.calls import Message
from muster.text.sandbox.loop import Refusal
from muster.text.sandbox.template import ChatTemplate
from muster.text.sandbox.turns import Turns

EACH = "{% for m in messages %}"
TURN = "<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PARTS = "{% for c in m.content %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
STRING = "{{ m.content }}"
TEMPLATES = {
    "string": EACH + TURN + STRING + END,
    "string, joined": EACH + "{{ '<|im_start|>' + m.role + '\n' + m.content }}" + END,
    "string, as JSON": EACH + TURN + "{{ m.content | tojson }}" + END,
    "string, stripped": EACH + TURN + "{{ m.content | trim | upper }}" + END,
    "parts": EACH + TURN + PARTS + END,
    "parts, by attribute": EACH + TURN + "{% for c in m.content %}{{ c.text }}{% endfor %}" + END,
    "parts, selected": EACH
    + TURN
    + "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text }}{% endfor %}"
    + END,
    "parts, first only": EACH + TURN + "{{ m.content[0].text }}" + END,
    "either": EACH + TURN + "{% if m.content is string %}" + STRING + "{% else %}" + PARTS + "{% endif %}" + END,
    "parts of users, strings of others": EACH
    + TURN
    + "{% if m.role == 'user' %}"
    + PARTS
    + "{% else %}{{ '' + m.content }}{% endif %}"
    + END,
    "parts of the system, strings of others": EACH
    + TURN
    + "{% if m.role == 'system' %}"
    + PARTS
    + "{% else %}{{ '' + m.content }}{% endif %}"
    + END,
}
CONVERSATIONS = {
    "user": ["user"],
    "system": ["system", "user"],
    "developer": ["developer", "user"],
    "long": ["system", "user", "assistant", "user", "assistant", "user"],
}


def turns(source: str) -> Turns:
    return Turns(ChatTemplate(source, {"bos_token": "<s>"}))


def conversation(roles: list[str]) -> list[Message]:
    return [Message(role, f"Words {i} of {role}s, kept whole.") for i, role in enumerate(roles)]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("roles", CONVERSATIONS)
def test_no_template_loses_a_word(template: str, roles: str) -> None:
    messages = conversation(CONVERSATIONS[roles])
    text = turns(TEMPLATES[template]).prompt(messages, {})
    for message in messages:
        assert message.content.lower() in text.lower()
        assert text.lower().count(message.content.lower()) == 1
    assert "'type'" not in text
    assert text.endswith("assistant\n")


@pytest.mark.parametrize(
    ("template", "roles", "lost"),
    [
        ("{{ messages[-1].content }}", ["user", "assistant", "user"], "messages[0] (from user)"),
        (EACH + "{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", ["system", "user"], "messages[0]"),
        (EACH + "{% if m.role == 'user' %}" + PARTS + "{% endif %}{% endfor %}", ["user", "assistant"], "messages[1]"),
        (
            "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}",
            ["system", "user"],
            "messages[1]",
        ),
        ("You are a helpful assistant.", ["user"], "messages[0] (from user)"),
        (EACH + "{{ m.text }}{% endfor %}", ["user"], "messages[0]"),
        (EACH + "{{ m.content.text }}{% endfor %}", ["user"], "messages[0]"),
        # A list that is printed as such is no form.
        (
            EACH + "{% if m.content is string %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
            ["user"],
            "messages[0]",
        ),
        (
            EACH + "{% if m.content is not string %}{{ m.content | tojson }}{% endif %}{% endfor %}",
            ["user"],
            "messages[0]",
        ),
    ],
)
def test_a_message_that_a_template_would_leave_out_is_named(template: str, roles: list[str], lost: str) -> None:
    with pytest.raises(Refusal) as caught:
        turns(template).prompt(conversation(roles), {})
    assert caught.value.failed.kind == "lost"
    assert caught.value.failed.reason.startswith(lost)


def test_a_role_that_a_template_refuses_is_told_in_its_own_words() -> None:
    gemma = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + EACH
        + STRING
        + "{% endfor %}"
    )
    with pytest.raises(Refusal, match="System role not supported") as caught:
        turns(gemma).prompt(conversation(["system", "user"]), {})
    assert caught.value.failed.kind == "refused"
    assert "Words 0" in turns(gemma).prompt(conversation(["user"]), {})


def test_developers_speak_as_the_system_where_a_template_only_mentions_them() -> None:
    source = "{# for developers #}" + EACH + "{% if m.role == 'system' %}[{{ m.content }}]{% endif %}{% endfor %}"
    assert turns(source).prompt([Message("developer", "x")], {}) == "[x]"


def test_variables_and_names_reach_the_template() -> None:
    source = EACH + "{{ m.name }}:{{ m.content }}{% endfor %}{% if thinking %}<think>{% endif %}{{ bos_token }}"
    messages = [Message("user", "x", "ada")]
    assert turns(source).prompt(messages, {"thinking": True}) == "ada:x<think><s>"
    assert turns(source).prompt(messages, {"thinking": False}) == "ada:x<s>"
    assert turns(source).prompt(messages, {"messages": [], "add_generation_prompt": False}) == "ada:x<s>"


NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<eot>", "<|start|>", "<|end|>", "<|user|>", "\n", "</s>"]
ROLE = "<|{{ m.role }}|>\n"
PROMPT = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (EACH + TURN + STRING + END, ["<|im_end|>"]),
        (EACH + ROLE + STRING + "<eot>\n{% endfor %}" + PROMPT, ["<eot>"]),
        (EACH + ROLE + PARTS + "<eot>\n{% endfor %}" + PROMPT, ["<eot>"]),
        (EACH + ROLE + " {{ m.content | trim }} </s>{% endfor %}" + PROMPT, ["</s>"]),
        (EACH + ROLE + "{{ m.content }}{{ '<' ~ 'eot>' }}{% endfor %}" + PROMPT, ["<eot>"]),
        # The next turn's beginning ends this one.
        (EACH + ROLE + STRING + "{% endfor %}" + PROMPT, ["<|user|>"]),
        # The model is led into thinking, of which the history shows nothing.
        (EACH + ROLE + STRING + "<eot>{% endfor %}" + PROMPT.replace("\n", "\n<think>\n"), ["<eot>"]),
        # A turn of several messages: what ends one of them does not end the turn.
        (
            EACH
            + "<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
            + STRING
            + "<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
            [],
        ),
        # Its conversations cannot be tried, but what it writes is known.
        (EACH + "{{ raise_exception('no') }}{% endfor %}<|im_end|>", ["<|im_end|>"]),
        ("{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n", ["<|im_end|>"]),
        # Nothing of the vocabulary follows.
        (EACH + "{{ m.role }}: {{ m.content }}\n{% endfor %}", []),
    ],
)
def test_what_ends_a_turn_is_read_off_the_template(template: str, ends: list[str]) -> None:
    assert sorted(set(turns(template).ends(NAMES))) == ends


def test_forms_are_found_once_and_not_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(TEMPLATES["parts"], {})
    rendered = []
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda self, *rest: rendered.append(1) or render(self, *rest))
    tried = Turns(template)
    for _ in range(3):
        tried.prompt(conversation(["user"]), {})
    assert len(rendered) == 2 + 3
