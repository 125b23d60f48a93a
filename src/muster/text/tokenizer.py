"""A model's tokenizer: text to ids, ids to text, one id to its bytes. Knows nothing of requests or streams.

Ids become text through *bytes*: every token has its own bytes (`token_bytes`) and a text is the UTF-8 reading of
their concatenation, invalid bytes replaced. For byte-level tokenizers this equals the library's own `decode`, token
by token and in linear time. For the SentencePiece kind it differs in one intended way: a leading space of the first
token is kept, because an output continues a prompt ("Hello" + " world") and is not a text of its own.

    this process:  the bytes of every id, which cannot fail       (Tokenizer)
    sandboxes:       what runs a stranger's expressions and loops   (text to ids, messages to prompts)

Texts that take long have a sandbox of their own, so that short ones need not wait; it is there only while it is used.
"""

import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from muster.errors import ContextTooLong, InvalidRequest, MachineTrouble, Unsupported, WeightsInvalid
from muster.text.calls import (
    Call,
    Conventions,
    Convert,
    Encode,
    Failed,
    FindConventions,
    Ids,
    Limit,
    Load,
    Render,
    Reply,
    Spellings,
    Text,
    Vocabulary,
)
from muster.text.confined import Broken, Confined
from muster.text.grammar_check import GrammarCheck
from muster.text.kept import Kept

CONVERTING = Limit(cpu_s=120, memory_bytes=4 * 2**30)
LOADING = Limit(cpu_s=60, memory_bytes=2 * 2**30)
ENCODING = Limit(cpu_s=2, memory_bytes=128 * 2**20)
ENCODING_LONG = Limit(cpu_s=20, memory_bytes=512 * 2**20)
RENDERING = Limit(cpu_s=5, memory_bytes=512 * 2**20)
LONG_FROM_CHARACTERS = 20_000
MESSAGE_CHARACTERS = 200
"""What a message counts for besides its content: a template has work with it, too."""

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


class Tokenizer:
    """`load_tokenizer` makes one. Safe to use from several threads."""

    def __init__(self, directory: Path, file: BinaryIO, vocabulary: Vocabulary) -> None:
        """`file` holds the `Description`. Raises `WeightsInvalid` where the tokenizer cannot take even one letter."""
        self._directory = directory
        self._spelled = vocabulary.spellings.spelled
        self._ends = array("I", vocabulary.spellings.ends)
        self._names = vocabulary.spellings.names
        self._ids_of_names = {name: id for id, name in self._names.items()}
        self.start_id = vocabulary.start_id
        """What an empty prompt begins with: the begin-of-text token, else the end-of-text token, else nothing."""
        self.has_chat_template = vocabulary.has_template
        self.chat_refusal: str | None = None
        """Why the chat template is not used, if it is not."""
        answer, greeting = "muster.text.sandbox.answer", Call(LOADING, Load())
        self._quick = Confined(answer, file, greeting)
        self._long = Confined(answer, file, greeting, "idle")
        weakref.finalize(self, file.close)
        self._try()
        self.conventions = self._find_conventions() if self.has_chat_template else Conventions()
        """Of the chat template. Where there is none, or it is not used: those of the plain form."""
        self.end_of_text_ids = tuple(sorted({*vocabulary.end_of_text_ids, *self.conventions.turn_ends}))
        """Tokens that end an answer: all that the model's files name, and those that end a turn of its chats."""
        self.grammars = GrammarCheck(self.spellings, self.end_of_text_ids)
        """Whether an output of this model can be kept to a grammar."""

    @cached_property
    def hugging_face(self) -> Any:
        """The library's own tokenizer, to compare with. Loading it takes time, memory and trust in the model."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._directory, trust_remote_code=False, local_files_only=True)

    @property
    def spellings(self) -> Spellings:
        """Of all tokens, for whoever has to know them without a tokenizer."""
        return Spellings(self._spelled, self._ends.tobytes(), self._names)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id of an entry. Some ids below may have no entry, and the model more rows."""
        return len(self._ends)

    def close(self) -> None:
        """End the sandboxes, whatever they are in the middle of."""
        self._quick.close()
        self._long.close()
        self.grammars.close()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises `InvalidRequest` where the tokenizer fails on the text, or takes too long for it."""
        return self.encoding(text, add_special_tokens).result()

    def encoding(self, text: str, add_special_tokens: bool = True, at_most: int | None = None) -> "Future[list[int]]":
        """`encode` that is awaited. Raises `ContextTooLong`, if early, for a text of more than `at_most` tokens."""
        sandbox = self._sandbox_for(len(text))
        return sandbox.thread.submit(self._encode, sandbox, Encode(text, add_special_tokens, at_most))

    def rendering(self, work: Render) -> "Future[str]":
        """The prompt that the chat template makes of messages. `render_chat` says more."""
        sandbox = self._sandbox_for(_weight(work))
        return sandbox.thread.submit(self._render, sandbox, work)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """What the token adds to the text: nothing for special and unknown ids, maybe part of a character."""
        if not 0 <= id < len(self._ends):
            return b""
        return self._spelled[self._ends[id - 1] if id else 0 : self._ends[id]]

    def display(self, id: int) -> tuple[str, list[int]]:
        """A token on its own, as log probabilities show it: readable text and bytes.

        A special token shows its name, and part of a character shows as `bytes:\\xe2\\x80`.
        """
        data = self.token_bytes(id) or self._names.get(id, "").encode()
        try:
            return data.decode(), list(data)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), list(data)

    def named(self, text: str) -> int | None:
        """The token that `text` is the whole name of and that adds nothing to a text, such as `<|im_end|>`."""
        return self._ids_of_names.get(text)

    def entry(self, text: str) -> int | None:
        """The token of this name, whether it adds something to a text or not. A space may be spelled ▁ in it."""
        found = (self._spelling(text.encode()), self._spelling(text.replace("▁", " ").encode()))
        return next((id for id in (self.named(text), *found) if id is not None), None)

    def _spelling(self, data: bytes) -> int | None:
        """The first token that adds exactly this to a text."""
        start = self._spelled.find(data)
        while start >= 0:
            id = bisect_right(self._ends, start)
            if self.token_bytes(id) == data:
                return id
            start = self._spelled.find(data, start + 1)
        return None

    def _sandbox_for(self, characters: int) -> Confined:
        return self._quick if characters < LONG_FROM_CHARACTERS else self._long

    def _try(self) -> None:
        try:
            reply = self._quick.call(Call(LOADING, Encode("a", add_special_tokens=True)))
        except Broken as broken:
            raise _unreadable(self._directory, broken.words) from None
        if isinstance(reply, Failed):
            raise _unreadable(self._directory, reply.reason)

    def _find_conventions(self) -> Conventions:
        try:
            reply = self._quick.call(Call(RENDERING, FindConventions()))
        except Broken as broken:
            self._refuse_chats(broken.words)
            return Conventions()
        if isinstance(reply, Failed):
            self._refuse_chats(reply.reason)
            return Conventions()
        assert isinstance(reply, Conventions)
        return reply

    def _encode(self, sandbox: Confined, work: Encode) -> list[int]:
        limit = ENCODING_LONG if sandbox is self._long else ENCODING
        try:
            reply = sandbox.call(Call(limit, work))
        except Broken as broken:
            raise InvalidRequest(f"Cutting this text into tokens {broken.words}; send a shorter one.") from None
        if isinstance(reply, Failed):
            raise InvalidRequest(f"The model's tokenizer fails on this text ({reply.reason}); change it.")
        assert isinstance(reply, Ids)
        if reply.cut:
            raise ContextTooLong(f"The text has more than {work.at_most} tokens; shorten it.")
        return array("I", reply.data).tolist()

    def _render(self, sandbox: Confined, work: Render) -> str:
        if self.chat_refusal is None:
            try:
                reply: Reply = sandbox.call(Call(RENDERING, work))
            except Broken as broken:
                reply = Failed("size", broken.words)
            if isinstance(reply, Text):
                return reply.text
            assert isinstance(reply, Failed)
            if reply.kind == "refused" or reply.kind == "fault":
                raise InvalidRequest(
                    f"The model's chat template refuses these messages ({reply.reason}); "
                    "change their roles or their order.",
                    "messages",
                )
            if reply.kind == "lost":
                raise InvalidRequest(
                    f"The model's chat template leaves out {reply.reason}, so the model would not read it; "
                    "put its text into another message.",
                    "messages",
                )
            if sandbox is self._long:  # a short conversation breaks no limit by itself
                raise InvalidRequest(
                    f"Making a prompt of these messages {reply.reason}; send fewer or shorter ones.", "messages"
                )
            self._refuse_chats(reply.reason)
        raise Unsupported(f"{self.chat_refusal}", "messages")

    def _refuse_chats(self, reason: str) -> None:
        """Once and for all: whoever wrote the template would otherwise have the time of every request."""
        self.chat_refusal = (
            f"This model's chat template {reason}, so it is not used; send a prompt to /v1/completions, or serve the "
            "model with another chat_template.jinja."
        )


def _weight(work: Render) -> int:
    """What is to be rendered, in characters."""
    messages = sum(len(message.content) + MESSAGE_CHARACTERS for message in work.messages)
    calls = sum(len(call.arguments) + MESSAGE_CHARACTERS for message in work.messages for call in message.tool_calls)
    return messages + calls + len(msgspec.json.encode(work.tools)) if work.tools else messages + calls


def load_tokenizer(path: Path) -> Tokenizer:
    """Load from a model directory, or from a `tokenizer.json` beside its companions. Never runs code of the model.

    Raises `WeightsInvalid` where there is no tokenizer or where it cannot be read.
    """
    directory = path.parent if path.is_file() else path
    if not any((directory / name).is_file() for name in _FILES):
        raise WeightsInvalid(
            f"No tokenizer in {directory} (looked for tokenizer.json); copy the model's tokenizer.json there."
        )
    kept = Kept(directory)
    converted = kept.read()
    if converted is None:
        converted = convert(directory)
        kept.write(*converted)
    return Tokenizer(directory, *converted)


def convert(directory: Path) -> tuple[BinaryIO, Vocabulary]:
    """A file without a name that holds the `Description` of a directory's tokenizer, and its vocabulary."""
    try:
        file = tempfile.TemporaryFile(prefix="muster-tokenizer-")  # noqa: SIM115 - closed with the tokenizer
    except OSError as error:
        raise MachineTrouble(f"There is no place for temporary files ({error.strerror}); free some disk.") from error
    converter = Confined("muster.text.sandbox.convert", file)
    try:
        reply = converter.call(Call(CONVERTING, Convert(str(directory.absolute()))))
    except Broken as broken:
        reply = Failed("size", broken.words)
    finally:
        converter.close()
    if isinstance(reply, Failed):
        file.close()
        raise _unreadable(directory, reply.reason)
    assert isinstance(reply, Vocabulary)
    return file, reply


def _unreadable(directory: Path, reason: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"The tokenizer in {directory} cannot be read ({reason}); "
        "put a valid tokenizer.json there, for example by downloading the model again."
    )
