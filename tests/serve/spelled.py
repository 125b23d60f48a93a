"""A vocabulary for the fake stage: token 0 ends a text, 1 to 26 are letters, 27 to 36 are digits."""

from array import array

import msgspec

from muster.serve.constrain import Constraints
from muster.text.calls import Spellings
from tests.serve.fake_stage import VOCABULARY

END = 0
LETTERS = "".join(map(chr, range(ord("a"), ord("z") + 1)))
CHARACTERS = ["", *LETTERS, *"0123456789"]
assert len(CHARACTERS) == VOCABULARY


def spellings() -> bytes:
    ends = array("I", range(VOCABULARY))
    return msgspec.msgpack.encode(Spellings("".join(CHARACTERS).encode(), ends.tobytes(), {END: "<|end|>"}))


def constraints(end_ids: tuple[int, ...] = (END,)) -> Constraints:
    return Constraints(spellings, end_ids, VOCABULARY)


def text_of(tokens: list[int]) -> str:
    return "".join(CHARACTERS[token] for token in tokens)
