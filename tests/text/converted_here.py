"""Tokenizers converted in this process, for tests that are about what comes out: a process of its own, in which a head
lets a stranger's files be read, takes two seconds to load the library that is loaded here already."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from muster.text.calls import Vocabulary
from muster.text.sandbox.convert import convert as described


def convert_here(directory: Path) -> tuple[BinaryIO, Vocabulary]:
    """As `muster.text.tokenizer.convert` where nothing is wrong with the files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muster.text.sandbox.convert._hide", lambda hidden: None)
        description, vocabulary = described(directory)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the tokenizer
    file.write(msgspec.msgpack.encode(description))
    file.flush()
    return file, vocabulary


@contextmanager
def converting_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muster.text.tokenizer.convert", convert_here)
        yield
