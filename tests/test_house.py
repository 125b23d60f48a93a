"""The rules of the house, as tests: size, docstrings, direction of imports, and pages that still tell the truth."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PYTHON = SOURCES + sorted(path for folder in ("tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
CARD = ROOT / "src/muster/model/embedded/tiny/README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", CARD, *sorted((ROOT / "docs").rglob("*.md"))]
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
DRAWERS = {"utils", "util", "common", "helpers", "helper", "shared", "misc", "stuff"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def run_tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_files_are_short() -> None:
    # Split those along their nouns.
    assert [name_of(path) for path in PYTHON if read(path).count("\n") > MAX_LINES] == []


def test_files_begin_by_saying_what_they_do_and_what_they_do_not_know() -> None:
    # By the first characters, as reading a thousand files into trees takes half a minute.
    said = ('"""', 'r"""')
    silent = [path for path in PYTHON if not read(path).startswith(said)]
    assert [name_of(path) for path in silent if not path.name.startswith(("test_", "conftest"))] == []


def test_no_function_is_longer_than_a_screen() -> None:
    assert [f"{name_of(path)} {name}" for path in SOURCES for name in long_functions(read(path))] == []


def long_functions(text: str) -> list[str]:
    if not has_a_long_stretch(text):
        return []
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES]


def has_a_long_stretch(text: str) -> bool:
    """Whether a function may be too long: the next definition that is indented no more is far below."""
    lines = enumerate([*text.split("\n"), "class"])
    starts = [(n, len(line) - len(line.lstrip())) for n, line in lines if re.match(r" *(async def|def|class|@)", line)]
    nexts = [next((m for m, other in starts[i + 1 :] if other <= depth), n) for i, (n, depth) in enumerate(starts)]
    return any(after - n > MAX_FUNCTION_LINES for (n, _), after in zip(starts, nexts, strict=True))


def test_no_folder_or_file_is_a_drawer() -> None:
    assert [name_of(path) for path in PYTHON if DRAWERS & set(path.with_suffix("").parts[len(ROOT.parts) :])] == []


def test_no_page_or_comment_is_left_unfinished() -> None:
    # Spelled apart so that this file does not find itself.
    marks = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "Place" + "holder"]) + r")\b")
    assert [name_of(path) for path in [*PYTHON, *PAGES] if marks.search(read(path))] == []


def test_imports_follow_the_tower() -> None:
    result = run_tool("-c", "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_generated_parts_of_the_pages_agree_with_the_code() -> None:
    result = run_tool(
        "-m",
        "cogapp",
        "--check",
        "--diff",
        "-P",
        "-I",
        "tools",
        *[name_of(p) for p in PAGES if p.name != "CONTRIBUTING.md"],
    )
    assert result.returncode == 0, "run `make format`\n" + result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_make_targets_that_a_page_names_exist(page: Path) -> None:
    text = read(page)
    paths = re.findall(r"`((?:src|tests|tools|docs|benchmarks|examples)/[\w./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert [name for name in re.findall(r"`make (\w+)", text) if name not in targets] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_muster_command_on_a_page_is_one_that_exists(page: Path) -> None:
    from muster.cli.main import verbs

    said = re.findall(r"(?:^\s*\$? ?|`)(?:\.venv/bin/)?muster ([a-z]+)", read(page), re.MULTILINE)
    assert [verb for verb in said if verb not in verbs()] == []


def test_the_repository_stays_light() -> None:
    model = ROOT / "src/muster/model/embedded"
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) <= 24_000_000
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = [name_of(p) for p in tracked if p.is_file() and model not in p.parents and p.stat().st_size > 1_000_000]
    assert large == []


def test_what_benchmarks_import_is_there() -> None:
    # Read, not run: benchmarks need programs and packages that tests do not have.
    assert {name_of(path): lost for path in (ROOT / "benchmarks").rglob("*.py") if (lost := lost_imports(path))} == {}


def lost_imports(path: Path) -> list[str]:
    imports = [node for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").split(".")[0] in ("muster", "benchmarks")]
    return [f"{node.module}.{alias.name}" for node in ours for alias in node.names if not is_there(node, alias.name)]


def is_there(imported: ast.ImportFrom, name: str) -> bool:
    base = ROOT / "src" if str(imported.module).startswith("muster") else ROOT
    place = base.joinpath(*str(imported.module).split("."))
    if (place / f"{name}.py").is_file() or (place / name).is_dir():
        return True
    source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    return source.is_file() and name in names_of(ast.parse(read(source)))


def names_of(module: ast.Module) -> set[str]:
    """All that the module defines or imports, at whatever depth."""
    nodes = list(ast.walk(module))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    imported = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return (
        defined
        | imported
        | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    )
