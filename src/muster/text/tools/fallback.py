"""Tools in plain words, for a chat template that knows none: the prompt on which Hermes models were trained.

The definitions go into the system message (or before the user's first words, where a template knows no system), calls
into the assistant's text, and results into a message from the user. What the model answers is read as Hermes writes it.
"""

import json
from collections.abc import Sequence

import msgspec

from muster.text.calls import Message, Tool

PROMPT = """\
You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def with_names_of_results(messages: Sequence[Message]) -> list[Message]:
    """Results say of which tool they are: some templates want it, and clients say it by the call's id alone."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [
        msgspec.structs.replace(message, name=names[message.tool_call_id])
        if message.role == "tool" and message.name is None and message.tool_call_id in names
        else message
        for message in messages
    ]


def in_plain_words(messages: Sequence[Message], tools: Sequence[Tool], takes_system: bool) -> list[Message]:
    """The same conversation of system, user and assistant alone."""
    spoken: list[Message] = []
    for message in messages:
        plain = _in_plain_words(message)
        if message.role == "tool" and spoken and spoken[-1].role == "user" and spoken[-1].content.endswith(_RESULT_END):
            joined = f"{spoken[-1].content}\n{plain.content}"  # templates want users and assistants to alternate
            spoken[-1] = msgspec.structs.replace(spoken[-1], content=joined)
        else:
            spoken.append(plain)
    return _told_of(tools, spoken, takes_system) if tools else spoken


_RESULT_END = "\n</tool_response>"


def _in_plain_words(message: Message) -> Message:
    if message.role == "tool":
        named = {"name": message.name} if message.name else {}
        return Message("user", f"<tool_response>\n{_json({**named, 'content': message.content})}{_RESULT_END}")
    if not message.tool_calls:
        return message
    calls = [
        f'<tool_call>\n{{"name": {_json(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    content = "\n".join([message.content, *calls] if message.content else calls)
    return msgspec.structs.replace(message, content=content, tool_calls=())


def _told_of(tools: Sequence[Tool], messages: Sequence[Message], takes_system: bool) -> list[Message]:
    prompt = PROMPT.format(tools="\n".join(_definition(tool) for tool in tools))
    place = next((i for i, message in enumerate(messages) if message.role in ("system", "developer")), None)
    if place is None and takes_system:
        return [Message("system", prompt), *messages]
    if place is None:
        place = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if place is None:
        return [Message("user", prompt), *messages]
    told = messages[place]
    both = (told.content, prompt) if told.role != "user" else (prompt, told.content)
    return [*messages[:place], msgspec.structs.replace(told, content="\n\n".join(both)), *messages[place + 1 :]]


def _definition(tool: Tool) -> str:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return _json({"type": "function", "function": described})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
