"""A tokenizer's regular expressions: those in use are taken, those that try all ways to match are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sumika.models import tokenizer_regex
from sumika.models.errors import SumikaError

USED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s*[\r\n]+|\s+",
    r"[一-龥ࠀ-一가-퟿]+", r"\s?[!-/:-~！-／]+", r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
    r"(?=(\d{3})+(?!\d))", r"[\p{Lu}\p{Lo}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+", r" {2,}",
]  # fmt: skip
SLOW = [
    r"(a+)+$", r"(?:a|a)*b", r"((a)*)*", r"(\p{L}+\s?)+!", r"(?:[^x]*)+y", r"(x)\1", r"(([a-z])+.)+[A-Z]", r"(?:a{1,}){2,}", r"(a|aa)+?$",
    r"(a{1,2})*b", r"(?:a?a)*c", "x" * 10_000,
]  # fmt: skip


def write(folder: Path, expression: str, step: str = "pre_tokenizer") -> None:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps({step: {"type": "Sequence", "pretokenizers": [split]}, "model": {}}))


@pytest.mark.parametrize("expression", USED)
def test_those_in_use_are_taken(tmp_path: Path, expression: str) -> None:
    write(tmp_path, expression)
    tokenizer_regex.check(tmp_path)


@pytest.mark.parametrize("step", ["pre_tokenizer", "normalizer", "decoder"])
@pytest.mark.parametrize("expression", SLOW, ids=lambda expression: expression[:20])
def test_those_without_end_are_refused(tmp_path: Path, expression: str, step: str) -> None:
    write(tmp_path, expression, step)
    with pytest.raises(SumikaError) as told:
        tokenizer_regex.check(tmp_path)
    assert told.value.code == "bad_model" and "正規表現" in told.value.ja
