"""What a model's files say about its text, one file or all of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from muster.text.sandbox.convert import end_of_text_ids
from muster.text.tokenizer import load_tokenizer
from tests.text.converted_here import converting_here
from tests.text.small_tokenizers import save, train_byte_level

CHATML = "{% for m in messages %}<|endoftext|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("generation", "config", "of_tokenizer", "ids"),
    [
        (None, None, None, ()),
        (None, None, 0, (0,)),
        (None, {"eos_token_id": 7}, 0, (0, 7)),
        ({"eos_token_id": 9}, {"eos_token_id": 7}, 0, (0, 7, 9)),
        ({"eos_token_id": [9, 7]}, {"eos_token_id": 7}, 7, (7, 9)),
        ({"eos_token_id": [9, None, True, -1, "x"]}, {"eos_token_id": None}, None, (9,)),
        ({"eos_token_id": -1}, {"text_config": {"eos_token_id": [3, 4]}}, 0, (0, 3, 4)),
        ({}, {"eos_token_id": 5, "text_config": {"eos_token_id": 3}}, None, (3, 5)),
        ([], {"text_config": None}, 1, (1,)),
    ],
)
def test_every_source_of_an_end_counts(
    tmp_path: Path, generation: Any, config: Any, of_tokenizer: int | None, ids: tuple[int, ...]
) -> None:
    for name, entries in (("generation_config.json", generation), ("config.json", config)):
        if entries is not None:
            (tmp_path / name).write_text(json.dumps(entries))
    assert end_of_text_ids(tmp_path, of_tokenizer) == ids


@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json, by name"])
def test_a_template_is_found_where_it_stands_and_its_turns_end_answers(tmp_path: Path, place: str) -> None:
    tokenizer = train_byte_level()
    tokenizer.add_tokens(["<|im_end|>"])  # an ordinary token, as some converters leave it
    named = [{"name": "tool_use", "template": "nothing"}, {"name": "default", "template": CHATML}]
    folder = save(tokenizer, tmp_path / "model", **({"chat_template": named} if "by name" in place else {}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 9}))
    if place == "chat_template.jinja":
        (folder / place).write_text(CHATML)
    elif place == "chat_template.json":
        (folder / place).write_text(json.dumps({"chat_template": CHATML}))
    with converting_here():
        loaded = load_tokenizer(folder)
    assert loaded.chat_refusal is None
    assert loaded.end_of_text_ids == (0, 9, tokenizer.token_to_id("<|im_end|>"))
