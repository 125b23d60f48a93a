"""Prompts to which the model writes what stands between two texts, for models that were taught to.

Such a model has names for the three places in its vocabulary, and the names say which family's order it knows. Knows
no requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Format:
    """Names of the tokens before the text in front, before the text behind, and before what is to be written."""

    front: str
    behind: str
    middle: str | None
    """None: nothing; then the text behind comes first."""


_FORMATS = (
    _Format("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma, Granite 4
    _Format("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    _Format("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _Format("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    _Format("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    _Format("[PREFIX]", "[SUFFIX]", None),  # Codestral
)

_ENDS = ("▁<EOT>", "<|fim_pad|>", "<fim_pad>", "<|file_sep|>", "<file_sep>", "<|file_separator|>", "<|repo_name|>")
"""Tokens that follow what was written where a model does not end with its end-of-text token."""


@dataclass(frozen=True, slots=True)
class FillIn:
    """How one model is asked. `prompt` puts the parts in its order; any of `end_ids` ends the answer."""

    front: int
    behind: int
    middle: int | None
    end_ids: tuple[int, ...]

    def prompt(self, front: Sequence[int], behind: Sequence[int]) -> list[int]:
        if self.middle is None:
            return [self.behind, *behind, self.front, *front]
        return [self.front, *front, self.behind, *behind, self.middle]


def fill_in_of(tokenizer: Tokenizer) -> FillIn | None:
    """None for a model that has no such names, so that nothing tells it where the gap is."""
    for format in _FORMATS:
        front, behind = tokenizer.entry(format.front), tokenizer.entry(format.behind)
        middle = None if format.middle is None else tokenizer.entry(format.middle)
        if front is not None and behind is not None and (middle is not None or format.middle is None):
            named = {tokenizer.entry(name) for name in _ENDS} | {front, behind, middle}
            return FillIn(front, behind, middle, tuple(sorted(id for id in named if id is not None)))
    return None
