"""Pre-commit hook: refuse a file over 1 MB. Weights and data do not belong in the repository's history."""

import sys
from pathlib import Path

LIMIT_BYTES = 1_000_000


def main() -> int:
    large = [name for name in sys.argv[1:] if Path(name).stat().st_size > LIMIT_BYTES]
    for name in large:
        print(f"{name} is {Path(name).stat().st_size / 1e6:.1f} MB; the limit is {LIMIT_BYTES / 1e6:.0f} MB")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
