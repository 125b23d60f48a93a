"""Environments for clients of others, outside this checkout: made once for each set of pins, and used again.

Knows no client: what is installed and which programs run in it is in `pins.toml`.
"""

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
INSTALL_S = 1800.0


class NotInstalled(Exception):
    """Why an environment cannot be had on this machine."""


@dataclass(frozen=True, slots=True)
class Environment:
    name: str
    kind: str
    """python or node."""
    packages: tuple[str, ...]
    programs: tuple[str, ...]

    def folder(self, cache: Path) -> Path:
        key = sha256("\n".join((self.kind, *self.packages)).encode()).hexdigest()[:12]
        return cache / f"{self.name}-{key}"

    def install(self, cache: Path) -> Path:
        """The environment's folder, complete. Raises `NotInstalled`."""
        folder = self.folder(cache)
        if not (folder / ".ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for command in self._steps(folder):
                _run(command, folder)
            (folder / ".ready").touch()
        return folder

    def command(self, folder: Path, program: str) -> list[str]:
        """What runs a program. Node finds packages beside the file that wants them, so its programs are copied."""
        if self.kind == "python":
            return [str(folder / "bin/python"), str(PROGRAMS / f"{program}.py")]
        for file in PROGRAMS.glob("*.mjs"):
            shutil.copy(file, folder)
        own = folder / "node_modules/.bin/node"  # where the pins name a Node
        return [str(own) if own.exists() else "node", str(folder / f"{program}.mjs")]

    def _steps(self, folder: Path) -> list[list[str]]:
        if self.kind == "node":
            return [["npm", "init", "--yes"], ["npm", "install", "--no-fund", "--no-audit", *self.packages]]
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return [[sys.executable, "-m", "venv", str(folder)], [*pip, *self.packages]]


def environments() -> list[Environment]:
    written: dict[str, dict[str, Any]] = tomllib.loads((HERE / "pins.toml").read_text())
    return [
        Environment(name, one["kind"], tuple(one["packages"]), tuple(one["programs"])) for name, one in written.items()
    ]


def _run(command: list[str], folder: Path) -> None:
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{command[0]}: {error}") from error
    if ran.returncode:
        raise NotInstalled(f"{' '.join(command)[:200]}: {ran.stderr.strip()[-300:]}")
