"""The generated parts of docs/: tables made from the code by cog, so that they cannot rot. Knows no file names.

make pages     checks them
make format    writes them
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import typer

from muster import errors
from muster.cli.main import app
from muster.wire.messages.every import AnyMessage


def commands() -> str:
    """Every verb with its arguments and options."""
    group = typer.main.get_group(app)
    return "\n".join(
        line for name in sorted(group.commands) for line in _command(f"muster {name}", group.commands[name])
    )


def _command(path: str, command: Any) -> Iterator[str]:
    if children := getattr(command, "commands", None):
        for name, child in children.items():
            yield from _command(path if child.hidden else f"{path} {name}", child)
        return
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    words = [f"[{p.name.upper()}]" if not p.required else p.name.upper() for p in arguments]
    yield from (f"### `{' '.join([path, *words])}`", "", _one_line(command.help), "")
    if command.hidden:  # another way to write its neighbours, which have the table
        return
    yield from ("| | | default |", "|---|---|---|")
    for param in [*arguments, *(param for param in command.params if param not in arguments)]:
        if "--help" not in param.opts:
            yield f"| {_spelling(param)} | {_cell(param.help)} | {_default(param)} |"
    yield ""


def _spelling(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.name.upper()}`"
    names = [*reversed(param.opts), *param.secondary_opts]
    variable = f" (`{param.envvar}`)" if param.envvar else ""
    return ", ".join(f"`{name}`" for name in names) + variable


def _default(param: Any) -> str:
    shown = getattr(param, "show_default", None)
    if isinstance(shown, str):
        return shown
    if param.required:
        return "required"
    if isinstance(param.default, bool):
        names = param.opts if param.default else param.secondary_opts
        return f"`{names[0]}`" if param.secondary_opts else ""
    return "" if param.default is None or callable(param.default) else f"`{param.default}`"


def wire_messages() -> str:
    """Every message with its fields and what it says."""
    rows = ["| message | fields | says |", "|---|---|---|"]
    for kind in get_args(AnyMessage):
        fields = ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(kind))
        rows.append(f"| `{kind.__struct_config__.tag}` | {fields} | {_cell(_own_doc(kind))} |")
    return "\n".join(rows)


def _own_doc(kind: type) -> str:
    """msgspec and inspect would fall back on the base class; a message without words of its own stays silent."""
    return _one_line(inspect.cleandoc(kind.__dict__.get("__doc__") or ""))


def error_codes() -> str:
    """Every error with the numbers that programs see."""
    rows = ["| error | `code` | HTTP status | exit code |", "|---|---|--:|--:|"]
    kinds = _tree(errors.MusterError)
    return "\n".join(rows + [f"| {k.__name__} | `{k.code}` | {k.status} | {k.exit_code} |" for k in kinds])


def _tree(root: type[errors.MusterError]) -> Iterator[type[errors.MusterError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def _one_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").strip())


def _cell(text: str | None) -> str:
    return _one_line(text).replace("|", "\\|")


SCORES = Path(__file__).resolve().parent.parent / "docs/tiny"
YARDSTICKS = {
    "model": "**tiny**",
    "ngram": "5-gram, modified Kneser-Ney",
    "xz": "`xz -9e`, all held-out files in one archive",
    "xz_each_file": "`xz -9e`, file by file",
    "xz_after_training_text": "`xz -9e`, with the training text before them in the archive",
}


def tiny_shape() -> str:
    """From the head and the end of the training log."""
    first, *_, last = (SCORES / "log.jsonl").read_text(encoding="utf-8").splitlines()
    run, end = json.loads(first), json.loads(last)
    options = {name: int(run["options"][name]) for name in ("vocab", "layers", "hidden", "intermediate")}
    return (
        f"Llama architecture, {run['parameters'] / 1e6:.1f} M parameters: {options['layers']} layers, hidden size "
        f"{options['hidden']}, {options['hidden'] // 64} attention heads of size 64 over {options['hidden'] // 128} "
        f"key/value heads, feed-forward size {options['intermediate']}, tied embeddings, context of 1024 tokens. "
        f"Byte-level BPE of {options['vocab']} tokens. Weights in bfloat16.\n\n"
        f"Trained on {run['train_files']} files, {run['train_tokens'] / 1e6:.1f} M tokens; it read "
        f"{end['tokens'] / 1e6:.1f} M tokens in {end['minutes']:.0f} minutes."
    )


def tiny_scores() -> str:
    record = json.loads((SCORES / "scores.json").read_text(encoding="utf-8"))
    megabytes = record["held_out_bytes"] / 1e6
    rows = [f"On {record['held_out_files']} held-out files, {megabytes:.2f} MB ({record['date']}):", ""]
    rows += ["| | bits per byte |", "|---|--:|"]
    scores = sorted((value, key) for key, value in record["bits_per_byte"].items())
    return "\n".join(rows + [f"| {YARDSTICKS[key]} | {value:.3f} |" for value, key in scores])


def tiny_completions() -> str:
    """The beginning's last lines, then what the model wrote."""
    parts = []
    for shown in json.loads((SCORES / "completions.json").read_text(encoding="utf-8")):
        beginning = "\n".join(shown["prefix"].splitlines()[-6:])
        for how in ("greedy", "sampled"):
            parts.append(f"**{shown['file']}**, {how}; the model's words begin after `⟶`:\n")
            parts.append(f"```python\n{beginning}⟶{shown[how].rstrip()}\n```\n")
    return "\n".join(parts)
