"""Pre-commit hook: give each named text file exactly one newline at its end and no trailing spaces.

Exits 1 when it changed something, as hooks do. Knows nothing of what the files mean.
"""

import sys
from pathlib import Path


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n")) + "\n" if text.strip() else ""


def main() -> int:
    changed = 0
    for name in sys.argv[1:]:
        text = Path(name).read_text(encoding="utf-8")
        if tidy(text) != text:
            Path(name).write_text(tidy(text), encoding="utf-8")
            print(f"tidied {name}")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main())
