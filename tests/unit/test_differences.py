"""`models verify`: which bytes of which file are not as imported."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sumika.models import archive, artifacts, differences, exporting, importing, manifest, signing
from sumika.models.differences import Difference
from sumika.models.home import Home
from sumika.models.manifest import MANIFEST, PART_BYTES, Hasher
from sumika.models.names import VersionRef
from sumika.models.store import Store

MIB = 2**20
SIZE = 3 * PART_BYTES + 5 * MIB
NAME = "notes.txt"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / NAME).write_bytes(os.urandom(MIB) * (SIZE // MIB))
    (folder / "small.json").write_text('{"a": 1}')
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture
def staged(home: Home, source: Path) -> artifacts.Staged:
    return artifacts.stage(home.artifacts, source)


def flip(path: Path, *places: int) -> None:
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))


def only(staged: artifacts.Staged) -> Difference:
    (found,) = differences.find(staged.folder, staged.digest)
    return found


def test_files_as_imported_differ_in_nothing_and_are_told_as_they_are_read(staged: artifacts.Staged) -> None:
    told: list[tuple[int, int]] = []
    assert differences.find(staged.folder, staged.digest, lambda done, total: told.append((done, total))) == []
    assert told[-1] == (SIZE + 8, SIZE + 8) and sorted(told) == told


def test_bytes_that_differ_are_named_and_parts_beside_each_other_are_one_range(staged: artifacts.Staged) -> None:
    flip(staged.folder / NAME, 0, PART_BYTES + 7, 3 * PART_BYTES + 1)
    found = only(staged)
    assert found.ranges == ((0, 2 * PART_BYTES - 1), (3 * PART_BYTES, SIZE - 1))
    assert found.text("en") == "notes.txt: changed: bytes 0–33,554,431, 50,331,648–55,574,527 differ"
    assert found.text("ja") == "notes.txt: 変更されています: 0–33,554,431, 50,331,648–55,574,527 バイト目が異なります"
    assert found.as_dict()["ranges"] == [[0, 33554431], [50331648, 55574527]] and json.dumps(found.as_dict())


@pytest.mark.parametrize(("place", "part"), [(PART_BYTES - 1, 0), (PART_BYTES, 1), (SIZE - 1, 3)])
def test_byte_at_the_edge_of_a_part_belongs_to_one_part(staged: artifacts.Staged, place: int, part: int) -> None:
    flip(staged.folder / NAME, place)
    assert only(staged).ranges == ((part * PART_BYTES, min((part + 1) * PART_BYTES, SIZE) - 1),)


def test_file_cut_short_says_what_is_left_and_where_that_differs(staged: artifacts.Staged) -> None:
    path = staged.folder / NAME
    flip(path, PART_BYTES)
    os.truncate(path, 2 * PART_BYTES + MIB)
    found = only(staged)
    assert (found.kind, found.ranges) == ("shorter", ((PART_BYTES, 2 * PART_BYTES - 1),))
    assert "34,603,008 of 55,574,528 bytes are there; bytes 16,777,216–33,554,431 differ" in found.text("en")
    os.truncate(path, PART_BYTES)
    assert only(staged).ranges == ()
    os.truncate(path, 0)
    assert (only(staged).ranges, only(staged).now) == ((), 0)


def test_file_that_grew_says_whether_its_old_bytes_are_as_they_were(staged: artifacts.Staged) -> None:
    path = staged.folder / NAME
    with path.open("ab") as file:
        file.write(b"more")
    found = only(staged)
    assert (found.kind, found.ranges, found.now) == ("longer", (), SIZE + 4) and "as imported" in found.text("en")
    flip(path, SIZE - 1)
    assert only(staged).ranges == ((3 * PART_BYTES, SIZE - 1),)
    (staged.folder / "empty.txt").write_text("x")
    assert {found.file: found.ranges for found in differences.find(staged.folder, staged.digest)}["empty.txt"] == ()


def test_small_file_is_one_part(staged: artifacts.Staged) -> None:
    (staged.folder / "small.json").write_text('{"a": 2}')
    assert only(staged).text("en") == "small.json: changed: bytes 0–7 differ"


def test_manifest_from_before_parts_were_kept_still_verifies_whole_files(staged: artifacts.Staged) -> None:
    path = staged.folder / MANIFEST
    value = json.loads(path.read_bytes())
    del value["part_bytes"], value["files"][NAME]["parts"]
    path.write_text(json.dumps(value))
    assert differences.find(staged.folder, staged.digest) == []
    flip(staged.folder / NAME, 5)
    assert only(staged).ranges is None and "not known" in only(staged).text("en")


def test_manifest_that_was_rewritten_to_fit_changed_files_is_told(staged: artifacts.Staged) -> None:
    flip(staged.folder / NAME, 5)
    with (staged.folder / NAME).open("rb") as file:
        hasher = Hasher()
        hasher.update(file.read())
    manifest.write(staged.folder, staged.files | {NAME: hasher.entry()})
    assert only(staged).file == MANIFEST


def test_file_that_cannot_be_read_is_told_with_its_place(staged: artifacts.Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Hasher.update

    def failing(self: Hasher, data: bytes) -> None:
        if self.bytes >= PART_BYTES:
            raise OSError(5, "Input/output error")
        real(self, data)

    monkeypatch.setattr(Hasher, "update", failing)
    found = only(staged)
    assert (found.kind, found.now) == ("unreadable", PART_BYTES) and "Input/output error" in found.text("en")


def test_every_kind_of_difference_has_a_line_in_both_languages() -> None:
    for kind in ("missing", "added", "shorter", "longer", "changed", "unreadable"):
        found = Difference("a\x1b.json", kind, None, 1, 2, "why")  # type: ignore[arg-type]
        assert found.text("en").startswith("a\\x1b.json: ") and found.text("ja") != found.text("en")


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
@pytest.mark.parametrize("piece", [MIB - 1, PART_BYTES, 3 * PART_BYTES])
def test_entry_is_the_same_whatever_pieces_a_file_comes_in(size: int, piece: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    whole, pieces = Hasher(), Hasher()
    whole.update(data)
    for start in range(0, size, piece):
        pieces.update(data[start : start + piece])
    assert whole.entry() == pieces.entry()
    assert len(whole.entry().parts) == (0 if size <= PART_BYTES else -(-size // PART_BYTES))


def test_archive_brings_the_parts_along(store: Store, home: Home, base_folder: Path, source: Path, tmp_path: Path) -> None:
    shutil.copy(source / NAME, base_folder / NAME)
    ours = importing.import_base(store, home, "base", base_folder)
    file = tmp_path / f"base{archive.SUFFIX}"
    exporting.export(store, home, VersionRef("base", 1), file)
    signing.trust(home, signing.line(signing.show(home)), "self")
    theirs = importing.import_archive(store, home, "again", file, max_lora_rank=16)
    assert manifest.read(home.artifacts / theirs.folder) == manifest.read(home.artifacts / ours.folder)
    assert len(manifest.read(home.artifacts / theirs.folder)[NAME].parts) == 4 and theirs.digest == ours.digest
