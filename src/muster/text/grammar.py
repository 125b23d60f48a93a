"""A grammar, compiled for the tokens of a model. Bounds what a grammar may take; knows nothing of requests or HTTP.

Compiling a large grammar takes a second or more, in which other threads go on. What bounds memory and the time of one
step are `LIMITS`; the time of compiling is bounded by whoever calls (`text/sandbox/check` has a limit for it).
"""

import re
from array import array
from collections.abc import Iterable

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from muster.errors import InvalidRequest
from muster.text.calls import Spellings

LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
"""A state takes one or two kilobytes. Errors without the grammar: they end up in logs."""
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'
"""The model decides how what must come is cut into tokens, as it does where nothing is asked of it."""
_SPECIAL = b"\xff"
"""Begins the name of a token that adds nothing to a text; no text holds this byte."""
MAX_REASON = 300
"""Characters of what the library says."""
_PICTURE = re.compile(r"\d+ \|.*|\^+|<non-verbose/>")
_IN_OUR_WORDS = (
    # A schema has no lines: we wrote them.
    (re.compile(r"at \d+\(\d+\): failed to compile JSON schema: "), ""),
    (re.compile(r"Unimplemented keys: \[(.*?)\]"), r"the schema uses \1, which is not supported"),
    (re.compile(r"oneOf constraints are not supported\..*"), "oneOf with options that overlap is not supported"),
)
_FAULTS = {
    "NoExtension": "nothing that this model can write fits it",
    "Parser Error": "there are too many possibilities for what may come next",
    "Lexer Error": "an expression in it takes too much work",
}


class _Tokens:
    """What `LLTokenizer` reads of a tokenizer. It never has to cut a text into tokens: nothing is forced."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, tokens: list[bytes], eos_token_id: int | None) -> None:
        self.tokens, self.eos_token_id = tokens, eos_token_id

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError


def token_table(spellings: Spellings, end_ids: Iterable[int], size: int | None = None) -> LLTokenizer:
    """Of a model whose logits have `size` entries; the tokenizer may have fewer tokens than that, or more.

    A model without an end-of-text token gets one that no logits have.
    """
    ends = array("I", spellings.ends)
    size = len(ends) if size is None else size
    count = min(len(ends), size)
    begins = [0, *ends[:count]]
    tokens = [spellings.spelled[begins[id] : begins[id + 1]] for id in range(count)]
    for id, name in spellings.names.items():
        if id < count:
            tokens[id] = _SPECIAL + name.encode()
    tokens += [b""] * (size - count)
    endings = sorted(id for id in set(end_ids) if id < size)
    wrapper = _Tokens(tokens, endings[0] if endings else None)
    return LLTokenizer(wrapper, eos_token=endings or None)  # type: ignore[arg-type]


def compiled(table: LLTokenizer, grammar: str) -> LLMatcher:
    """At its beginning; a `deep_copy` of it is cheap. Raises `InvalidRequest` that says what cannot be done."""
    if grammar.lstrip().startswith("{"):  # the library's own form of several grammars, which knows no options
        raise InvalidRequest("A grammar is Lark text and begins with no brace; write it as rules.")
    matcher = LLMatcher(table, grammar + _OPTIONS, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise InvalidRequest(in_words(matcher.get_error()))
    return matcher


def first_fault(matcher: LLMatcher) -> str | None:
    """Why nothing can be said from here on; None where something can, or where all is said."""
    if matcher.is_error():
        said = in_words(matcher.get_error())
        return next((words for name, words in _FAULTS.items() if name in said), said)
    if matcher.is_stopped() and not matcher.is_accepting():
        return _FAULTS["NoExtension"]
    return None


def in_words(error: str) -> str:
    """What the library says, in a line; pictures of where it is are left out."""
    lines = [line.strip() for line in error.splitlines()]
    said = " ".join(line for line in lines if line and not _PICTURE.fullmatch(line))
    for pattern, words in _IN_OUR_WORDS:
        said = pattern.sub(words, said)
    return said[:MAX_REASON].rstrip(".;, ")


def allowed_tokens(matcher: LLMatcher) -> list[int]:
    """Which tokens may come next."""
    bits = int.from_bytes(matcher.compute_bitmask(), "little")
    return [id for id in range(bits.bit_length()) if bits >> id & 1]
