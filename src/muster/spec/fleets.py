"""The fleets of published systems, by name, as pool files that come with Muster. Knows nothing of what they can do."""

from functools import cache
from importlib.resources import files

from muster.errors import InvalidRequest
from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool
from muster.spec.written import suggest

_folder = files("muster.spec").joinpath("fleets").joinpath


def fleet_names() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def fleet_text(name: str) -> str:
    """The pool file itself, to read or to start from. Raises `InvalidRequest` with the closest names."""
    if name not in fleet_names():
        raise InvalidRequest(f"There is no fleet {name!r} with Muster; {suggest(name, fleet_names())}", "pool")
    return _folder(f"{name}.toml").read_text("utf-8")


@cache
def shipped_fleet(name: str) -> Pool:
    """One of `fleet_names()`. Raises `InvalidRequest` with the closest names."""
    return parse_pool(fleet_text(name))
