"""A conversation as a person types it: messages, a few commands, text of several lines. Knows no model and no screen.

    hello              a message
    /new               begin anew; the system message stays
    /system TEXT       begin anew with this system message; without TEXT without one
    /undo              take back the last message and its answer
    /help, /exit

Three quotation marks begin and end a message of several lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

QUOTES = '"""'
COMMANDS = "/new begins anew, /system TEXT sets the system message, /undo takes the last exchange back, /exit ends"
Message = dict[str, str]
Turn = Literal["answer", "tell", "end"]


@dataclass(slots=True)
class Chat:
    system: str = ""
    said: list[Message] = field(default_factory=list)
    """By the person and the model in turn, the system message left out."""

    def messages(self) -> list[Message]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.said]

    def take(self, text: str) -> tuple[Turn, str]:
        """What a person has typed: whether the model is to answer now, and what is to be told otherwise."""
        command, _, rest = text.strip().partition(" ")
        if not command.startswith("/") or "/" in command[1:] or "\n" in text:  # a path, or a text, is no command
            self.take_message(text)
            return "answer", ""
        match command:
            case "/exit" | "/bye" | "/quit":
                return "end", ""
            case "/new":
                self.said.clear()
                return "tell", "A new conversation."
            case "/system":
                self.said.clear()
                self.system = rest.strip()
                return "tell", f"A new conversation, with {'this' if self.system else 'no'} system message."
            case "/undo":
                return "tell", self.undo()
            case "/help":
                return "tell", help_text()
        return "tell", f"There is no command {command}; {COMMANDS}."

    def take_message(self, text: str) -> None:
        self.said.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        self.said.append({"role": "assistant", "content": text})

    def undo(self) -> str:
        """Take back the last message of the person and all that came after it."""
        while self.said and self.said.pop()["role"] != "user":
            pass
        return f"{len(self.said) // 2} exchanges are left."


def help_text() -> str:
    return f"{COMMANDS}; {QUOTES} begins and ends a message of several lines."


def read_message(read_line: Callable[[bool], str]) -> str:
    """One message. `read_line` is told whether it reads on inside of one. Raises `EOFError` at the end of input."""
    line = read_line(False)
    if not line.lstrip().startswith(QUOTES):
        return line
    lines = [line.lstrip().removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        try:
            lines.append(read_line(True))
        except EOFError:
            break
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")
