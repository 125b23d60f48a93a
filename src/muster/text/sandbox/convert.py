"""Reads a model directory's tokenizer with the library that defines what is in it, and writes a `Description`.

A process that ends afterwards: the library takes a second and a hundred megabytes, which what stays can do without.
Never runs code of the model.
"""

import importlib.util
import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import msgspec

from muster.text.calls import Convert, Description, Failed, Reply, Vocabulary, Work
from muster.text.sandbox.loop import Refusal, in_a_line, serve
from muster.text.sandbox.pieces import spellings


def convert(directory: Path) -> tuple[Description, Vocabulary]:
    hugging_face = _load(directory)
    if not hasattr(hugging_face, "backend_tokenizer"):
        raise Refusal(
            Failed("refused", "it has no fast form; save a tokenizer.json with AutoTokenizer and save_pretrained")
        )
    begin, end = hugging_face.bos_token_id, hugging_face.eos_token_id
    templates = _chat_templates(directory, hugging_face.chat_template)
    description = Description(
        tokenizer_json=hugging_face.backend_tokenizer.to_str().encode(),
        begin_id=begin,
        named_tokens=dict(hugging_face.special_tokens_map),
        chat_templates=templates,
    )
    vocabulary = Vocabulary(
        spellings=spellings(hugging_face.backend_tokenizer),
        start_id=end if begin is None else begin,
        end_of_text_ids=end_of_text_ids(directory, end),
        has_template=bool(templates),
    )
    return description, vocabulary


def _load(directory: Path) -> Any:
    _hide("torch")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except MemoryError:
        raise
    except BaseException as error:
        raise Refusal(Failed("refused", in_a_line(error))) from error


def _hide(hidden: str) -> None:
    """From the library, which would import it if it found it: three seconds and 200 MB that no tokenizer needs."""
    find = importlib.util.find_spec

    def find_others(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] == hidden else find(name, package)

    importlib.util.find_spec = find_others


def end_of_text_ids(directory: Path, of_tokenizer: int | None) -> tuple[int, ...]:
    """All that any file names. They differ in many checkpoints, and each of them is the right one in some."""
    found = set() if of_tokenizer is None else {of_tokenizer}
    for name in ("generation_config.json", "config.json"):
        described = _read_json(directory / name)
        for fields in (described, described.get("text_config")):
            if isinstance(fields, dict):
                found |= _ids(fields.get("eos_token_id"))
    return tuple(sorted(found))


def _ids(written: Any) -> set[int]:
    """A number or a list of numbers; some write -1 for none."""
    listed = written if isinstance(written, list) else [written]
    return {id for id in listed if isinstance(id, int) and not isinstance(id, bool) and id >= 0}


def _chat_templates(directory: Path, of_library: str | dict[str, str] | None) -> dict[str, str]:
    """By name. Processors of models that also see or hear keep theirs in a file that the library does not look at."""
    if of_library is None:
        of_library = _read_json(directory / "chat_template.json").get("chat_template")
    if isinstance(of_library, dict):
        return {str(name): str(template) for name, template in of_library.items()}
    return {"default": of_library} if isinstance(of_library, str) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Refusal(Failed("refused", f"{path.name}: {in_a_line(error)}")) from error
    return described if isinstance(described, dict) else {}


def main() -> None:
    def handle(work: Work) -> Reply:
        assert isinstance(work, Convert)
        description, vocabulary = convert(Path(work.directory))
        with os.fdopen(int(sys.argv[1]), "wb", closefd=False) as file:
            file.write(msgspec.msgpack.encode(description))
        return vocabulary

    serve(handle)


if __name__ == "__main__":
    main()
