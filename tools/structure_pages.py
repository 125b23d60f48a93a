"""The generated parts of docs/structure.md: the tower of imports and one line per folder. Knows no file by name.

The rows are those of the import contract, the words those of the packages, so neither can say what the code does not.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/muster"


def tower() -> str:
    """The rows of the contract, from the top; each row imports only rows below it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return "\n".join(f"    {row}" for row in rows)


def folders() -> str:
    """Every folder with what it says of itself."""
    rows = ["| folder | what is in it |", "|---|---|"]
    rows += [f"| `{one.relative_to(PACKAGE).as_posix()}/` | {_first_paragraph(one)} |" for one in sorted(_folders())]
    return "\n".join(rows)


def _folders() -> Iterator[Path]:
    return (file.parent for file in PACKAGE.rglob("__init__.py") if file.parent != PACKAGE)


def _first_paragraph(folder: Path) -> str:
    says = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    return re.sub(r"\s+", " ", says.split("\n\n")[0])
