"""Which texts part a conversation for a model, and where they are found in a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sumika.models import control_tokens
from sumika.models.control_tokens import ControlTokens


def written(folder: Path, **files: Any) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value) if not isinstance(value, str) else value)
    return folder


def test_special_tokens_are_read_from_whichever_file_has_them(tmp_path: Path) -> None:
    added = [
        {"id": 1, "content": "<|im_end|>", "special": True},
        {"id": 2, "content": "<tool_call>", "special": False},
        {"id": 3, "content": "\n\n", "special": True},
    ]
    settings = {
        "eos_token": {"content": "</s>"},
        "bos_token": "<s>",
        "additional_special_tokens": ["[INST]", "<｜end▁of▁sentence｜>"],
        "model_max_length": 5,
    }
    folder = written(tmp_path, tokenizer={"version": "1.0", "added_tokens": added, "model": {}}, tokenizer_config=settings)
    found = control_tokens.read(folder)
    assert found.shaped == {"<|im_end|>", "</s>", "<s>", "[INST]", "<｜end▁of▁sentence｜>"} and found.others == ()
    written(tmp_path, tokenizer_config={"added_tokens_decoder": {"7": {"content": "<eot>", "special": True}}})
    assert control_tokens.read(folder).shaped == {"<eot>"}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"added_tokens": 1}', '{"added_tokens": [1, {"content": 2, "special": true}]}', "[" * 10_000]
)
def test_files_that_tell_none_tell_none(tmp_path: Path, text: str) -> None:
    written(tmp_path, tokenizer=text, tokenizer_config=text, special_tokens_map=text)
    assert control_tokens.read(tmp_path) == ControlTokens()


@pytest.mark.parametrize(
    ("text", "found"),
    [("a<|im_end|>b", "<|im_end|>"), ("<<|im_end|>>", "<|im_end|>"), ("x <b>y</b> [0] <| im_end |>", None), ("<<SYS>>", "<<SYS>>"), ('["[INST]"]', "[INST]"),
     ("<|im_en\nd|>", None), ("＜|im_end|＞", None), ("", None), ("EOT_MARK", "EOT_MARK")],
)  # fmt: skip
def test_they_are_found_wherever_they_stand(text: str, found: str | None) -> None:
    tokens = ControlTokens.of(("<|im_end|>", "[INST]", "<<SYS>>", "EOT_MARK", "a", "  \n"))
    assert tokens.found_in(json.dumps({"messages": [{"content": text}]}, ensure_ascii=False)) == found
