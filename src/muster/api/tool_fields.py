"""What a body in OpenAI's form says of tools: definitions, the choice among them, calls and their results.

Knows no routes and no way of models to write calls.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muster.api.conversation import ToolChoice
from muster.api.fields import check_unicode
from muster.errors import InvalidRequest, Unsupported
from muster.text.calls import Tool, ToolCall

MAX_TOOLS = 128
MAX_TOOLS_CHARACTERS = 1_000_000
"""All definitions together, as JSON."""
MAX_DESCRIPTION_CHARACTERS = 100_000
MAX_CALLS_OF_MESSAGE = 128
MAX_DEPTH = 64
"""Lists and objects within one another, of a schema or of arguments."""
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
"""OpenAI takes 64 characters, Anthropic 128, and programs that join the names of servers and tools need them."""
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def read_tools(written: Any, path: str = "tools", read: Callable[[Any, str], Tool] | None = None) -> tuple[Tool, ...]:
    """Checked definitions; `read` takes one in the form of another API, and where it stands."""
    read, entries = read or _read_tool, _list(written, path, MAX_TOOLS)
    tools = tuple(read(entry, f"{path}[{i}]") for i, entry in enumerate(entries))
    _check_tools(tools, path)
    return tools


def read_functions(written: Any) -> tuple[Tool, ...]:
    """The older form: definitions without a wrapping."""
    return read_tools(written, "functions", _read_older)


def _check_tools(tools: Sequence[Tool], path: str) -> None:
    """Definitions in whatever form an API has them are held to the same limits."""
    names: set[str] = set()
    size = 0
    for i, tool in enumerate(tools):
        here = f"{path}[{i}]"
        check_name(tool.name, f"{here}.name")
        if tool.name in names:
            raise InvalidRequest("Two tools have the same name; give each one of its own.", here)
        names.add(tool.name)
        if len(check_unicode(tool.description, f"{here}.description")) > MAX_DESCRIPTION_CHARACTERS:
            raise InvalidRequest(
                f"A description has more than {MAX_DESCRIPTION_CHARACTERS} characters; shorten it.",
                f"{here}.description",
            )
        if _depth(tool.parameters) > MAX_DEPTH:
            raise InvalidRequest(
                f"The parameters are nested more than {MAX_DEPTH} deep; flatten them.", f"{here}.parameters"
            )
        size += len(check_unicode(json.dumps(tool.parameters, ensure_ascii=False), f"{here}.parameters"))
        size += len(tool.description)
    if size > MAX_TOOLS_CHARACTERS:
        raise InvalidRequest(
            f"The tools have more than {MAX_TOOLS_CHARACTERS} characters; send fewer or shorter ones.", path
        )


def check_name(name: str, path: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidRequest("A tool's name must have 1 to 128 letters, digits, _ or -; choose such a name.", path)
    return name


def _read_tool(entry: Any, path: str) -> Tool:
    if not isinstance(entry, dict):
        raise InvalidRequest("A tool is not an object; send {'type': 'function', 'function': {...}}.", path)
    kind = entry.get("type", "function")
    if kind != "function":
        raise Unsupported(
            "This server calls no tools itself, so every tool must be of type 'function'; leave the others out.",
            f"{path}.type",
        )
    function = entry.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest("A tool has no function; add its name and parameters there.", f"{path}.function")
    return read_function(function, f"{path}.function")


def _read_older(entry: Any, path: str) -> Tool:
    if not isinstance(entry, dict):
        raise InvalidRequest("A function is not an object; send its name and parameters.", path)
    return read_function(entry, path)


def read_function(function: Mapping[str, Any], path: str) -> Tool:
    """`{"name", "description", "parameters", "strict"}`."""
    name, description = function.get("name"), function.get("description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if not isinstance(name, str):
        raise InvalidRequest("A tool has no name; add it.", f"{path}.name")
    if description is not None and not isinstance(description, str):
        raise InvalidRequest("A tool's description is not text; send text.", f"{path}.description")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest("A tool's parameters are not a JSON schema; send an object.", f"{path}.parameters")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequest("strict is neither true nor false; send one of them.", f"{path}.strict")
    return Tool(check_name(name, f"{path}.name"), description or "", parameters or NO_PARAMETERS, bool(strict))


def read_tool_choice(written: Any, has_tools: bool) -> ToolChoice:
    """`none`, `auto`, `required`, or `{"type": "function", "function": {"name": ...}}`."""
    if written is None:
        return ToolChoice("auto" if has_tools else "none")
    if written in ("none", "auto", "required"):
        return ToolChoice(written)
    function = written.get("function") if isinstance(written, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(written, dict) and written.get("type", "function") != "function":
        raise Unsupported(
            "This server does not do this kind of tool_choice; send none, auto, required, or name one function.",
            "tool_choice",
        )
    if not isinstance(name, str):
        raise InvalidRequest(
            "tool_choice is neither none, auto nor required, and names no function; send one of these.", "tool_choice"
        )
    return ToolChoice("required", name)


def read_function_call(written: Any, has_functions: bool) -> ToolChoice:
    """The older form of a choice: `none`, `auto`, or `{"name": ...}`."""
    if isinstance(written, dict):
        return read_tool_choice({"function": written}, has_functions)
    if written not in (None, "none", "auto"):
        raise InvalidRequest(
            "function_call is neither none nor auto, and names no function; correct it.", "function_call"
        )
    return read_tool_choice(written, has_functions)


def read_calls(written: Any, path: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant's message."""
    calls = []
    for i, entry in enumerate(_list(written, path, MAX_CALLS_OF_MESSAGE)):
        here = f"{path}[{i}]"
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict):
            raise InvalidRequest("A tool call has no function; add its name and arguments there.", here)
        id = entry.get("id")
        if not isinstance(id, str):
            raise InvalidRequest("A tool call has no id; send the one that it came with.", f"{here}.id")
        calls.append(read_call(id, function, f"{here}.function"))
    return tuple(calls)


def read_call(id: str, function: Mapping[str, Any], path: str) -> ToolCall:
    """`{"name", "arguments"}`; the arguments are the JSON text of an object, empty for none."""
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str):
        raise InvalidRequest("A tool call has no name; add it.", f"{path}.name")
    return check_call(ToolCall(id, name, arguments if isinstance(arguments, str) else "?"), path)


def check_call(call: ToolCall, path: str) -> ToolCall:
    """Calls in whatever form an API has them are held to the same limits."""
    check_name(call.name, f"{path}.name")
    if not call.arguments.strip():
        return ToolCall(call.id, call.name, "{}")
    try:
        value = json.loads(check_unicode(call.arguments, f"{path}.arguments"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        raise InvalidRequest(
            "The arguments of a tool call are not the JSON text of an object; send what the call came with, completed "
            "if it was cut.",
            f"{path}.arguments",
        )
    return ToolCall(check_unicode(call.id, path), call.name, call.arguments)


def _depth(value: Any) -> int:
    """Of lists and objects within one another; it stops counting soon behind the limit."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [part for each in inner for part in (each.values() if isinstance(each, dict) else each)]
        depth += bool(inner)
    return depth


def _list(written: Any, path: str, limit: int) -> Sequence[Any]:
    if written is None:
        return ()
    if not isinstance(written, list):
        raise InvalidRequest(f"{path} is no list; send one.", path)
    if len(written) > limit:
        raise InvalidRequest(f"{path} holds more than {limit} entries; send fewer.", path)
    return written
