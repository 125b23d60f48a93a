"""How a family writes calls, in a form from which a grammar can be made. Knows no grammars."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallForm:
    """Texts in which marks may be tokens of their own. `NAME` and `KEY` stand for themselves.

    Calls on their own:   trigger head arguments tail, then `between` and the next, trigger and all.
    In a group:           trigger opening head arguments tail, then `between` and the next head, closing at the end.
    """

    trigger: str
    """What begins a call, and nothing else. Empty: whatever begins with a brace is one."""
    head: str
    tail: str
    between: str = ""
    group: tuple[str, str] | None = None
    """Opening and closing."""
    parameter: tuple[str, str] | None = None
    """What stands before and after the value of each argument. None: the arguments are an object of JSON."""
