"""Files become token ids: text files whole, JSON lines one by one. Knows no order, no batches.

Each document begins with the token that an empty prompt begins with, and ends with the model's end of text where that
is another one, so that a model learns where texts begin and end.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muster.errors import InvalidRequest
from muster.spec.training import DataTable
from muster.text.tokenizer import Tokenizer

Ids = NDArray[np.uint32]

PIECE_CHARACTERS = 50_000
"""A long text is cut into tokens piece by piece, at ends of lines where there are any."""
MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Documents:
    ids: Ids
    nbytes: int
    """Of the texts in UTF-8."""
    count: int
    skipped_lines: int


def find_files(patterns: Sequence[str], folder: Path) -> list[Path]:
    """In a fixed order. Raises `InvalidRequest` where a pattern finds nothing."""
    found: list[Path] = []
    for pattern in patterns:
        path = folder / Path(pattern).expanduser()
        root = Path(path.anchor) if path.is_absolute() else Path()
        there = [path] if path.is_file() else sorted(root.glob(str(path.relative_to(path.anchor))))
        files = [file.resolve() for file in there if file.is_file()]
        if not files:
            raise InvalidRequest(f"No file is called {pattern} in {folder}; name one that is there.", "data")
        found += [file for file in files if file not in found]
    return found


def read_documents(
    files: Sequence[Path], data: DataTable, tokenizer: Tokenizer, end_id: int | None, say: Callable[[str], None]
) -> Documents:
    """`end_id` ends a document. Raises `InvalidRequest` on a file or line that cannot be read."""
    parts: list[Ids] = []
    reader = _Reader(data)
    nbytes = count = 0
    opening = [] if tokenizer.start_id is None else [tokenizer.start_id]
    closing = [] if end_id is None or [end_id] == opening else [end_id]
    for file in files:
        say(f"reading {file.name}")
        for text in reader.texts(file):
            encoded = [id for piece in pieces(text) for id in tokenizer.encode(piece, add_special_tokens=False)]
            parts.append(np.array([*opening, *encoded, *closing], dtype=np.uint32))
            nbytes += len(text.encode())
            count += 1
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)
    return Documents(ids, nbytes, count, reader.skipped)


def pieces(text: str) -> Iterator[str]:
    """Not longer than `PIECE_CHARACTERS`, cut behind the last line break of each if it has one."""
    start = 0
    while start < len(text):
        stop = min(len(text), start + PIECE_CHARACTERS)
        if stop < len(text) and (line_end := text.rfind("\n", start, stop)) >= start:
            stop = line_end + 1
        yield text[start:stop]
        start = stop


class _Reader:
    def __init__(self, data: DataTable) -> None:
        self._data = data
        self.skipped = 0

    def texts(self, file: Path) -> Iterator[str]:
        try:
            if file.suffix == ".jsonl":
                yield from self._lines(file)
            else:
                yield file.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(
                f"{file} cannot be read ({error.strerror}); mend that, or name another file.", "data"
            ) from None
        except UnicodeDecodeError:
            raise InvalidRequest(f"{file} is no UTF-8 text; convert it or leave it out.", "data") from None

    def _lines(self, file: Path) -> Iterator[str]:
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(MAX_LINE_BYTES):
                number += 1
                text = self._text(line)
                if text is not None:
                    yield text
                elif line.strip():
                    self._broken(file, number)

    def _text(self, line: bytes) -> str | None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
        text = record.get(self._data.field) if isinstance(record, dict) else None
        return text if isinstance(text, str) else None

    def _broken(self, file: Path, number: int) -> None:
        if self._data.broken_lines == "stop":
            raise InvalidRequest(
                f"Line {number} of {file} is no JSON object with a text in {self._data.field!r}; correct it, or take "
                'it out (in a run file, broken_lines = "skip" under [data] leaves such lines out).',
                "data",
            )
        self.skipped += 1
