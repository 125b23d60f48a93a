"""How verbs speak: text for people, JSON lines for programs, errors as one sentence.

Knows nothing of what is said. Programs read stdout; prose and errors go to stderr when `--json` is given.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from muster.errors import MusterError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def show_error(error: MusterError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}), flush=True)
    else:
        err.print(f"[red]muster:[/red] {plain(str(error))}", soft_wrap=True)


def show_json(record: object) -> None:
    print(json.dumps(record), flush=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """Cells are plain text: whatever a node calls itself is never read as markup. `right` names columns of figures."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*map(plain, row))
    out.print(table)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Labels and what they say, in two columns."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts:
        table.add_row(plain(label), plain(text))
    out.print(table)


class Announcer:
    """Tells what happens in a long-running verb: JSON lines with `event` first, or sentences."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(self, event: str, sentence: str = "", **facts: Any) -> None:
        if self.as_json:
            show_json({"event": event, **facts})
        elif sentence:
            out.print(plain(sentence), soft_wrap=True)


def plain(text: str) -> str:
    """Words from elsewhere, safe for rich to print: as `plain_words`, rich's brackets neutralised."""
    return plain_words(text).replace("[", "\\[")


def plain_words(text: str) -> str:
    """Words from elsewhere, safe to print: control characters stripped (a node's name may carry an escape sequence)."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
