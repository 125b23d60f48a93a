"""The process that says whether a grammar can be used: compiled within limits, and tried for a few tokens.

A client's schema is a program: what it means may take hours or gigabytes to find out. Needs `llguidance` only.
"""

import mmap
import random
import sys
from typing import TYPE_CHECKING

import msgspec

from muster.errors import InvalidRequest
from muster.text.calls import CheckGrammar, Done, Failed, Lexicon, Load, Reply, Text, Work
from muster.text.grammar import allowed_tokens, compiled, first_fault, token_table
from muster.text.sandbox.endless import is_endless, schemas_in
from muster.text.sandbox.loop import Refusal, in_a_line, serve

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

TRIED_TOKENS = 24
"""Much of what is too large to be used shows where the first values begin."""
IDLE_S = 60.0


def check(table: "LLTokenizer", grammar: str) -> Text:
    """The grammar as Lark text. Raises `Refusal`."""
    try:
        lark = _from_gbnf(grammar) if "::=" in grammar else grammar
        matcher = compiled(table, lark)
    except InvalidRequest as error:
        raise Refusal(Failed("refused", str(error))) from None
    if any(map(is_endless, schemas_in(lark))):
        raise Refusal(Failed("refused", "it recurses for ever: each of its values holds another one"))
    fault = _try(matcher)
    if fault is not None:
        raise Refusal(Failed("refused", fault))
    return Text(lark)


def _from_gbnf(grammar: str) -> str:
    """The form that llama.cpp reads, and vLLM's clients send."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return any_to_lark(grammar)
    except Exception as error:
        raise Refusal(Failed("refused", f"it is neither Lark nor GBNF: {in_a_line(error)}")) from error


def _try(matcher: "LLMatcher") -> str | None:
    """Say something that fits, always the same; why that is not possible, if it is not."""
    chance = random.Random(0)
    for _ in range(TRIED_TOKENS):
        if matcher.is_stopped():
            break
        tokens = allowed_tokens(matcher)
        if (fault := first_fault(matcher)) is not None:
            return fault
        if not tokens:
            break
        matcher.consume_token(chance.choice(tokens))
    return first_fault(matcher)


def main() -> None:
    table: LLTokenizer | None = None

    def handle(work: Work) -> Reply:
        nonlocal table
        if isinstance(work, Load):
            with mmap.mmap(int(sys.argv[1]), 0, access=mmap.ACCESS_READ) as file:
                lexicon = msgspec.msgpack.decode(file, type=Lexicon)
            table = token_table(lexicon.spellings, lexicon.end_ids)
            return Done()
        assert table is not None
        assert isinstance(work, CheckGrammar)
        return check(table, work.grammar)

    serve(handle, IDLE_S)


if __name__ == "__main__":
    main()
