"""What is served is what was imported: names, sizes and hashes, and what they miss when a file is put in another's place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sumika.models import differences, importing, integrity
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.integrity import Integrity
from sumika.models.store import Store


@pytest.fixture
def files(store: Store, home: Home, base_folder: Path) -> tuple[Integrity, Path]:
    version = importing.import_base(store, home, "base", base_folder)
    folder = home.artifacts / version.folder
    return Integrity(version, folder), folder


def refused(check: object) -> str:
    with pytest.raises(SumikaError) as told:
        check()  # type: ignore[operator]
    assert told.value.code == "broken_artifact"
    return told.value.en


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_files_as_they_were_imported_are_right(files: tuple[Integrity, Path]) -> None:
    checked, _ = files
    checked.check_names()
    checked.check_small()
    checked.check_all()
    checked.check_same()


def test_file_that_the_manifest_does_not_name_is_refused(files: tuple[Integrity, Path]) -> None:
    checked, folder = files
    (folder / "chat_template.jinja").write_text("{{ 'evil' }}")
    assert "chat_template.jinja: not in the manifest" in refused(checked.check_names)


def test_file_that_is_gone_of_another_size_or_a_link_is_refused(files: tuple[Integrity, Path]) -> None:
    checked, folder = files
    config = folder / "config.json"
    whole = config.read_bytes()
    config.write_bytes(whole + b" ")
    assert "config.json" in refused(checked.check_names)
    config.unlink()
    assert "config.json: missing" in refused(checked.check_names)
    (folder.parent / "elsewhere").write_bytes(whole)
    config.symlink_to(folder.parent / "elsewhere")
    assert "config.json" in refused(checked.check_names)


def test_one_bit_is_found_and_so_is_one_that_comes_later(files: tuple[Integrity, Path]) -> None:
    checked, folder = files
    checked.check_all()
    was = (folder / "model.safetensors").stat()
    flip(folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(was.st_atime_ns, was.st_mtime_ns))
    assert "model.safetensors" in refused(checked.check_same)
    assert "model.safetensors" in refused(checked.check_all)


def test_manifest_that_was_written_anew_is_refused(files: tuple[Integrity, Path]) -> None:
    checked, folder = files
    flip(folder / "model.safetensors")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"sha256": "', '"sha256": "0', 1))
    assert "manifest.json" in refused(checked.check_names)


def test_file_that_was_found_right_is_not_read_again(files: tuple[Integrity, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checked, _ = files
    checked.check_all()
    monkeypatch.setattr(differences, "of_file", lambda *_: pytest.fail("read again"))
    checked.check_all()
    checked.check_same()


def test_of_a_large_version_all_but_the_weights_is_hashed_first(
    files: tuple[Integrity, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, folder = files
    monkeypatch.setattr(integrity, "HASHED_FIRST", 10)
    monkeypatch.setattr(integrity, "_SMALL", 1000)
    flip(folder / "model.safetensors")
    checked.check_small()
    refused(checked.check_all)
    flip(folder / "config.json")
    refused(checked.check_small)
