"""Figures in words, as tables, sentences and pictures have them. Knows no plan."""


def bytes_in_words(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.1f} KiB"


def layers_in_words(first: int, last: int) -> str:
    """Layers [first, last), counted from 0, as tables, pictures and `--pin` have them: `0–19`, or `4`."""
    return str(first) if last - first == 1 else f"{first}–{last - 1}"
