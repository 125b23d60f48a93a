"""A model's chat template: Jinja in an immutable sandbox, with what templates may count on. Knows no tokens.

No files, no attributes that begin with an underscore, no changes to what is passed in. What a template finds there is
what `apply_chat_template` of `transformers` gives it, so the same template writes the same text here.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from muster.text.calls import Failed
from muster.text.sandbox.loop import Refusal

MAX_RENDERED_CHARACTERS = 16 * 2**20

Conversation = Sequence[Mapping[str, Any]]


class ChatTemplate:
    def __init__(self, source: str, named_tokens: Mapping[str, Any]) -> None:
        """Raises `TemplateError` where `source` is no template."""
        self.source = source
        self._named_tokens = named_tokens
        self._compiled = _environment().from_string(source)

    def render(
        self,
        messages: Conversation,
        variables: Mapping[str, Any],
        prompting: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text at whose end the assistant speaks, if `prompting`. Raises whatever the template raises."""
        given = {**self._named_tokens, **variables}
        fixed = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": prompting}
        pieces, size = [], 0
        for piece in self._compiled.generate({**given, **fixed}):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_RENDERED_CHARACTERS:
                raise Refusal(Failed("size", f"writes more than {MAX_RENDERED_CHARACTERS} characters"))
        return "".join(pieces)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says, for training. Here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """Takes no names that lead to Python's own."""

    def __init__(*args: Any, **fields: Any) -> None:
        self, *rest = args  # so that a field may be called `self`
        fields = dict(*rest, **fields)
        for name in fields:
            _check_name(name)
        Namespace.__init__(self, fields)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no place for {name[:50]!r}")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now, "namespace": _Namespace, "dict": _dict}
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _dict(*entries: Any, **fields: Any) -> dict[Any, Any]:
    return dict(*entries, **fields)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
