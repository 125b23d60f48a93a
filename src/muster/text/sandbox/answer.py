"""The process that stays: text to ids, messages to a prompt. Needs `tokenizers` and Jinja, and nothing larger."""

import mmap
import sys
from array import array
from typing import Any

import msgspec
from tokenizers import Tokenizer

from muster.text.calls import (
    Conventions,
    Description,
    Done,
    Encode,
    Failed,
    FindConventions,
    Ids,
    Load,
    Render,
    Reply,
    Text,
    Work,
)
from muster.text.sandbox.loop import Refusal, in_a_line, serve
from muster.text.sandbox.template import ChatTemplate
from muster.text.sandbox.turns import TURN_ENDS, Turns

IDLE_S = 60.0
MAX_SOURCE_CHARACTERS = 262_144
"""Of a template, to look for the marks of a model's family in."""
CHARACTERS_PER_TOKEN = (4, 16)
"""For each token that fits, so many characters are looked at before a longer text is read to its end."""


class SandboxedTokenizer:
    def __init__(self, description: Description) -> None:
        self._described = msgspec.structs.replace(description, tokenizer_json=b"")  # it takes as much again
        self._rust: Any = Tokenizer.from_buffer(description.tokenizer_json)
        # Settings for training, which some checkpoints were saved with. They would cut prompts, fill them up, or
        # spell them otherwise each time.
        self._rust.no_truncation()
        self._rust.no_padding()
        if getattr(self._rust.model, "dropout", None) is not None:
            self._rust.model.dropout = None
        self._begins = [description.begin_id] == self.encode(Encode("", True), once=False)[:1]
        self._turns: Turns | None = None

    def conventions(self) -> Conventions:
        turns = self._conversation()
        takes_tools = turns.takes_tools()
        return Conventions(
            self._turn_ends(turns),
            turns.source[:MAX_SOURCE_CHARACTERS],
            takes_tools,
            not takes_tools or turns.takes_several_calls(),
            turns.takes_system(),
        )

    def _turn_ends(self, turns: Turns) -> tuple[int, ...]:
        known = {name: self._rust.token_to_id(name) for name in TURN_ENDS}  # not always an added token
        names = {name: id for name, id in known.items() if id is not None}
        names |= {token.content: id for id, token in self._rust.get_added_tokens_decoder().items()}
        return tuple(names[name] for name in turns.ends(list(names)))

    def encode(self, work: Encode, once: bool = True) -> list[int]:
        # Of a batch, even of one: that form keeps no places in the text, which take memory.
        (encoded,) = self._rust.encode_batch_fast([work.text], add_special_tokens=work.add_special_tokens)
        ids: list[int] = encoded.ids
        if once and work.add_special_tokens and self._begins and ids[1:2] == ids[:1]:
            del ids[0]  # a text that was made by a template begins with the begin-of-text token already
        return ids

    def ids(self, work: Encode) -> Ids:
        most = work.at_most
        if most is not None and any(self._begins_with_more(most, work.text, most * n) for n in CHARACTERS_PER_TOKEN):
            return Ids(b"", cut=True)
        return Ids(array("I", self.encode(work)).tobytes())

    def _begins_with_more(self, most: int, text: str, characters: int) -> bool:
        # The last word is cut and may have more tokens than it had whole.
        return len(text) > characters and len(self.encode(Encode(text[:characters], False))) > 2 * most

    def render(self, work: Render) -> Text:
        return Text(self._conversation().render(work))

    def _conversation(self) -> Turns:
        if self._turns is None:
            templates = self._described.chat_templates
            source = templates.get("default") or (next(iter(templates.values())) if len(templates) == 1 else None)
            if source is None:
                names = ", ".join(sorted(templates))
                raise Refusal(Failed("template", f"is one of several ({names[:200]}), and none is called default"))
            try:
                self._turns = Turns(ChatTemplate(source, self._described.named_tokens))
            except MemoryError:
                raise
            except Exception as error:
                raise Refusal(Failed("template", f"cannot be read ({in_a_line(error)})")) from error
        return self._turns


def _load(number: int) -> SandboxedTokenizer:
    with mmap.mmap(number, 0, access=mmap.ACCESS_READ) as file:
        description = msgspec.msgpack.decode(file, type=Description)
    return SandboxedTokenizer(description)


def main() -> None:
    sandbox: SandboxedTokenizer | None = None

    def handle(work: Work) -> Reply:
        nonlocal sandbox
        if isinstance(work, Load):
            sandbox = _load(int(sys.argv[1]))
            return Done()
        assert sandbox is not None
        match work:
            case FindConventions():
                return sandbox.conventions()
            case Encode():
                return sandbox.ids(work)
            case Render():
                return sandbox.render(work)
        raise AssertionError(f"{type(work).__name__} is for another process")

    serve(handle, IDLE_S if "idle" in sys.argv[2:] else None)


if __name__ == "__main__":
    main()
