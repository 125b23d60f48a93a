"""A command line that cannot be read, as an error like any other: one sentence with the remedy. Knows no verb."""

import re

import typer

from muster.errors import InvalidRequest

UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""Of whichever click typer is built on; it has no public name for it."""

_WORDS = (
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be greater than or equal to (\S+)", r"it must be \1 or more"),
    (r"Input should be less than or equal to (\S+)", r"it must be \1 or less"),
    (r"Input should be", "it must be"),
    (r"Value error, ", ""),
)
"""The parser's own words, and ours."""


def in_words(error: Exception) -> InvalidRequest:
    """Without words where there is nothing to say beside the help, which has been shown then."""
    says: str = getattr(error, "format_message", lambda: str(error))().strip().rstrip(".")
    for theirs, ours in _WORDS:
        says = re.sub(theirs, ours, says, flags=re.DOTALL)
    context = getattr(error, "ctx", None)
    verb = " ".join(context.command_path.split()) if context is not None else "muster"
    return InvalidRequest(f"{says}; see `{verb} --help`." if says else "")
