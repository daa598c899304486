from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from sumika.models import yamlfile
from sumika.models.errors import SumikaError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rank: int = 1
    name: str = ""
    on: bool = False


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lora: Inner = Inner()
    epochs: float = 1


def problems(tmp_path: Path, text: str | bytes, overrides: list[str] | None = None) -> str:
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SumikaError) as told:
        yamlfile.load(Outer, path, overrides)
    assert told.value.code == "bad_config" and str(path) in told.value.en and str(path) in told.value.ja
    return told.value.en


def test_errors_are_told_all_at_once_with_their_lines(tmp_path: Path) -> None:
    told = problems(tmp_path, "lora:\n  rnak: 3\n  rank: many\nepoch: 2\n")
    assert "line 2: unknown key 'lora.rnak'; did you mean 'lora.rank'?" in told
    assert "line 3: lora.rank" in told and "line 4: unknown key 'epoch'; did you mean 'epochs'?" in told


def test_key_in_the_wrong_group_is_pointed_to_its_own(tmp_path: Path) -> None:
    assert "did you mean 'lora.rank'?" in problems(tmp_path, "rank: 3\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora: {rank: 1, rank: 2}", "given twice"),
        ("lora: {name: NO, on: NO}", "lora.on"),
        ("lora: {rank: 12:30:45}", "lora.rank"),
        ("lora: {rank: 0o17}", "lora.rank"),
        ("lora: {rank: 1_000}", "lora.rank"),
        ("epochs: .nan", "epochs"),
        ("epochs: !!python/object/apply:os.system [true]", "python/object"),
        ("- a", "mapping"),
        ("a: [", "line"),
        (b"epochs: \x93\xfa\x96\x7b", "UTF-8"),
        ("", "mapping"),
        ("lora: {name: !!binary aGVsbG8=}", "line 1: the tag !!binary is not taken; write the plain value"),
        ("epochs: !!int x", "the tag !!int is not taken"),
        ("? [a]\n: 1", "a key must be a word"),
        ("lora: {rank: " + "9" * 5000 + "}", "lora.rank"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_yaml_that_would_surprise_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in problems(tmp_path, text)


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SumikaError, match="does not exist"):
        yamlfile.read(tmp_path / "none.yaml")


def test_override_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("lora:\n  rank: 3\n")
    loaded = yamlfile.load(Outer, path, ["lora.rank=8", "epochs=1.5e-1", "lora.name=yes"])
    assert (loaded.lora.rank, loaded.epochs, loaded.lora.name) == (8, 0.15, "yes")


def test_override_of_an_unknown_key_is_refused(tmp_path: Path) -> None:
    assert "did you mean 'lora.rank'" in problems(tmp_path, "epochs: 1", ["lora.ranks=8"])
    assert "group.key=value" in problems(tmp_path, "epochs: 1", ["lora.rank"])


def test_override_is_named_and_shares_nothing(tmp_path: Path) -> None:
    assert "from the command line: lora.rank: Input should be a valid integer" in problems(tmp_path, "epochs: 1", ["lora.rank=x"])
    path = tmp_path / "x.yaml"
    path.write_text("a: &one {rank: 3}\nb: *one\n")
    laid = yamlfile.overridden(yamlfile.read(path), ["a.rank=8"])
    assert laid.data == {"a": {"rank": 8}, "b": {"rank": 3}}


def test_problems_are_told_in_japanese_too(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("lora:\n  rank: x\n  rnak: 1\n")
    with pytest.raises(SumikaError) as told:
        yamlfile.load(Outer, path)
    assert "2 行目: lora.rank: 整数にしてください(指定値: 'x')" in told.value.ja
    assert "3 行目: 「lora.rnak」というキーはありません。「lora.rank」のことですか?" in told.value.ja
