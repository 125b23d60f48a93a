"""What the words on a planner's command line stand for: a model's sizes, a pool, files to write. Knows no planner."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from muster.cost.config_fields import Fields
from muster.cost.dtypes import dtypes_to_try, possible_dtypes, possible_for
from muster.cost.families import FAMILIES
from muster.cost.from_config import shape_from_config
from muster.cost.named_shapes import named_shape, shape_names
from muster.errors import InvalidRequest, MachineTrouble, UnknownModel
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.fleets import fleet_names, fleet_text
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Node, Pool
from muster.spec.pool_file import parse_pool
from muster.spec.written import suggest

LIVE = "live"
MAX_BYTES = 2**27
"""Of a file that is read; a thousand machines with the links of every pair take a third of it."""
PICTURES = (".svg", ".png", ".html")


def find_shapes(
    name: str, dtype: str | None, nodes: Iterable[Node], few_bits: FewBits = AS_STORED
) -> tuple[ModelShape, ...]:
    """As `find_shape`, in the dtypes to try on these machines, one after the other until they can hold it."""
    possible = (dtype,) if dtype else possible_for(find_shape(name, few_bits=few_bits).dtype)
    return tuple(find_shape(name, one, few_bits) for one in dtypes_to_try(possible, nodes))


def find_shape(name: str, dtype: str | None = None, few_bits: FewBits = AS_STORED) -> ModelShape:
    """Sizes of a folder's model, a bare config.json, a shape that ships by name, or a model on the hub; no weights.

    `dtype` None takes the checkpoint's own. Raises `UnknownModel` with what could be meant, else what reading raises.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return _from_file(path, path.resolve().parent.name, dtype, few_bits)
    if path.is_dir():
        return _from_file(path / "config.json", path.resolve().name, dtype, few_bits)
    if name in shape_names():
        return named_shape(name, dtype, few_bits)
    from muster.model.source import EMBEDDED, HUB_ID

    if name in EMBEDDED:
        return _from_file(EMBEDDED[name] / "config.json", name, dtype, few_bits)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        from muster.model.from_hub import resolve_config  # the hub's client takes a while to import

        return _from_file(resolve_config(name), name, dtype, few_bits)
    known = suggest(name, [*shape_names(), *EMBEDDED]).rstrip("?.")
    raise UnknownModel(
        f"There is no model {name!r} ({known}); give the name of a shape, a folder, a config.json, or a hub id like "
        "owner/name.",
        "model",
    )


def _from_file(path: Path, name: str, dtype: str | None, few_bits: FewBits) -> ModelShape:
    if not path.is_file():
        raise UnknownModel(
            f"{path.parent} has no config.json, so its sizes are unknown; name the model's folder.", "model"
        )
    if path.suffix != ".json":
        raise UnknownModel(f"{path} is not a config.json; name that file of the model, or its folder.", "model")
    text = read_text(path, "model")
    fields = Fields.parse(text)
    if fields.model_type in FAMILIES:
        return shape_from_config(text, name, dtype, few_bits)
    return _counted(text, name, possible_dtypes(fields, dtype)[0], few_bits)


def _counted(config_json: str, name: str, dtype: str, few_bits: FewBits) -> ModelShape:
    """A family whose configuration cannot be read off: build the modules without memory, and count."""
    from muster.model.shape import shape_of

    return shape_of(config_json, name, dtype, few_bits)


def find_pool(name: str, live: Callable[[], tuple[Pool, str]]) -> tuple[Pool, str]:
    """What `live` gives, a fleet that ships by name, or a pool file; and the text of it. Raises `InvalidRequest`."""
    if name == LIVE:
        return live()
    path = Path(name).expanduser()
    if name in fleet_names() or path.is_file():
        text = fleet_text(name) if name in fleet_names() else read_text(path, "pool")
        return _parsed(text, name), text
    if path.is_dir():
        raise InvalidRequest(f"{name} is a folder; name the pool file in it.", "pool")
    if path.suffix or os.sep in name:
        raise InvalidRequest(f"There is no pool file {name}; check the path, or name a fleet ({_fleets()}).", "pool")
    raise InvalidRequest(
        f"{name!r} is neither a pool file nor a fleet; {suggest(name, [*fleet_names(), LIVE])}", "pool"
    )


def _parsed(text: str, name: str) -> Pool:
    """What is wrong in a pool file, with the file's name."""
    try:
        return parse_pool(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}", error.parameter) from None


def _fleets() -> str:
    return ", ".join(fleet_names()[:3]) + ", …"


def read_text(path: Path, parameter: str) -> str:
    """Raises `InvalidRequest` if the file cannot be read as text, or has no end."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InvalidRequest(f"{path} has more than {MAX_BYTES // 2**20} MiB; name another file.", parameter)
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not text; name another file.", parameter) from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}); name another file.", parameter) from error


def check_outputs(picture: Path | None, *others: Path | None) -> None:
    """Before anything slow: the kind of picture, and that every file can be written."""
    if picture is not None:
        _check_picture(picture)
    for path in others:
        if path is not None:
            _check_writable(path)


def _check_picture(path: Path) -> None:
    if path.suffix.lower() not in PICTURES:
        kinds = " or ".join(PICTURES)
        raise InvalidRequest(f"{path} has no ending that names a kind of picture; end it in {kinds}.", "picture")
    _check_writable(path)


def _check_writable(path: Path) -> None:
    """Raise `MachineTrouble` if the file could not be written; it is not touched."""
    folder = path.parent
    if path.is_dir():
        raise MachineTrouble(f"{path} is a folder; name a file in it.")
    if not folder.is_dir():
        raise MachineTrouble(f"{path} cannot be written because {folder} is not a folder; make it, or choose another.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise MachineTrouble(f"{path} cannot be written; choose another place or change its permissions.")


def write_text(path: Path, text: str) -> None:
    """Raises `MachineTrouble` (disk full, no permission). A half-written file never takes the place of a whole one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MachineTrouble(f"{path} cannot be written ({error.strerror}); choose another place.") from error
