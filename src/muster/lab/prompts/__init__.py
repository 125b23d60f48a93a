"""Beginnings to continue: short excerpts of standard-library files that the model `tiny` never saw in training.

Each text file is cut from CPython 3.11 (PSF licence, copyright Python Software Foundation): `sunau`, `traceback`,
`json/encoder`, `test/test_gc`, `xml/etree/ElementTree` and `multiprocessing/pool`.
"""

from importlib.resources import files


def excerpts() -> dict[str, str]:
    """Name -> text, in a fixed order. The last newline is left off: the model's first token continues the line."""
    texts = sorted((f for f in files(__name__).iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    return {text.name.removesuffix(".txt"): text.read_text(encoding="utf-8").removesuffix("\n") for text in texts}
