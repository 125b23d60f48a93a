"""A prompt as it stands on the command line: words, standard input, or both. Knows nothing of models."""

import sys
from collections.abc import Sequence

from muster.cli.output import err
from muster.errors import InvalidRequest

STDIN = "-"
MAX_PROMPT_CHARACTERS = 8 * 2**20
"""No head takes a larger body."""


def prompt_of(words: Sequence[str]) -> str:
    """The words, each on lines of its own, with standard input in the place of `-`. Raises `InvalidRequest`."""
    if not words:
        raise InvalidRequest(
            "There is no prompt; write one behind the model, or - to read standard input: see `muster run --help`.",
            "prompt",
        )
    if list(words).count(STDIN) > 1:
        raise InvalidRequest("Standard input can be read only once; write a single -.", "prompt")
    return "\n".join(_standard_input() if word == STDIN else word for word in words)


def _standard_input() -> str:
    if sys.stdin.isatty():
        err.print("[dim]reading the prompt from here; Ctrl-D on a line of its own ends it[/dim]")
    try:
        text = sys.stdin.read(MAX_PROMPT_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise InvalidRequest("Standard input is not text in UTF-8; convert it first.", "prompt") from error
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(f"Standard input has more than {MAX_PROMPT_CHARACTERS} characters; send less.", "prompt")
    return text
