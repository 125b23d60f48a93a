"""The entries of a config.json, checked as they are read. Knows no architecture."""

import json
from collections.abc import Mapping
from typing import Any

from muster.errors import WeightsInvalid

_LARGEST = 2**31
MAX_CONFIG_BYTES = 4 * 2**20
"""Of a config.json. The largest published ones have a tenth of it, and Python needs thirty times as much for it."""
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def read_config(config_json: str) -> dict[str, Any]:
    """The entries of a config.json. Raises `WeightsInvalid` on anything but a JSON object, and on an endless one."""
    if len(config_json) > MAX_CONFIG_BYTES:
        raise WeightsInvalid(
            f"config.json has over {MAX_CONFIG_BYTES // 2**20} MiB, more than any model needs; download it again."
        )
    try:
        entries = json.loads(config_json, object_hook=_tagged_float)
    except (ValueError, RecursionError) as error:
        raise _no_config() from error
    if not isinstance(entries, dict):
        raise _no_config()
    return entries


def decoder_entries(entries: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model that also sees or hears: the entries of its decoder, with what the whole says of it."""
    tied = {key: entries[key] for key in ("tie_word_embeddings",) if key in entries}
    of_all = {key: entries[key] for key in ("dtype", "torch_dtype") if key in entries}
    says_itself = any(text.get(key) is not None for key in of_all)
    return {**text, **({} if says_itself else of_all), **tied}


def _tagged_float(entries: dict[str, Any]) -> Any:
    """`transformers` writes a number that JSON does not have as {"__float__": "Infinity"}; older ones as Infinity."""
    tag = entries.get("__float__") if len(entries) == 1 else None
    return _FLOATS.get(tag, entries) if isinstance(tag, str) else entries


def _no_config() -> WeightsInvalid:
    return WeightsInvalid("config.json is not a JSON object with a model_type; download the model again.")


class Fields:
    """Typed access to one JSON object; every error names the entry. A null counts as missing."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = entries

    @staticmethod
    def parse(config_json: str) -> "Fields":
        """Raises `WeightsInvalid` on anything but a JSON object with a model_type.

        Of a model that also sees or hears, the decoder of text is what counts.
        """
        entries = read_config(config_json)
        text = entries.get("text_config")
        if isinstance(text, dict) and "model_type" in text:
            entries = decoder_entries(entries, text)
        if not isinstance(entries.get("model_type"), str):
            raise _no_config()
        return Fields(entries)

    def filled(self, defaults: Mapping[str, Any]) -> "Fields":
        """The same with `defaults` for entries that are not there at all (a null stays one)."""
        return Fields({**defaults, **self._entries})

    @property
    def model_type(self) -> str:
        return str(self._entries["model_type"])

    def value(self, *names: str) -> Any:
        """The first of `names` that is there, else None."""
        return next((self._entries[name] for name in names if self._entries.get(name) is not None), None)

    def count(self, *names: str, default: int | None = None) -> int:
        """A positive integer. Raises `WeightsInvalid` if it is missing without default, or something else."""
        value = self.value(*names)
        if value is None and default is not None:
            return default
        if value is None:
            raise WeightsInvalid(f"config.json lacks {names[0]!r}; download the model again.")
        return _checked(names[0], value, least=1)

    def number(self, name: str) -> int:
        """An integer that may be 0, which is also what a missing one counts as."""
        value = self.value(name)
        return 0 if value is None else _checked(name, value, least=0)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.value(name)
        return default if value is None else bool(value)

    def words(self, name: str) -> list[str]:
        """A list of strings; empty if it is missing."""
        value = self.value(name)
        return [str(word) for word in value] if isinstance(value, list) else []

    def numbers(self, name: str) -> list[int]:
        value = self.value(name)
        return [int(number) for number in value if isinstance(number, int)] if isinstance(value, list) else []


def _checked(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _LARGEST:
        kind = "a positive integer" if least else "an integer from 0"
        raise WeightsInvalid(f"config.json has {name} = {str(value)[:20]}, not {kind}; correct it.")
    return value
