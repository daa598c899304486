"""Archives for a machine without a network: what goes out comes in whole, and nothing else ever does."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sumika.cli import main
from sumika.models import archive, artifacts, differences, exporting, importing, manifest, registry, signing
from sumika.models.archive_header import HEADER, LONGEST_HEADER, SIGNATURE, Header
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.store import Store
from tests.conftest import ROOT, MakeAdapter, write_base

RANK = 16


@pytest.fixture
def there(tmp_path: Path) -> Home:
    """The machine that an archive is carried to."""
    made = Home(tmp_path / "there")
    made.create()
    return made


@pytest.fixture
def their_store(there: Home) -> Iterator[Store]:
    opened = Store(f"sqlite:///{there.database}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def base(store: Store, home: Home, base_folder: Path) -> Version:
    return importing.import_base(store, home, "base", base_folder, meta={"licence": {"id": "gemma"}})


@pytest.fixture
def good(store: Store, home: Home, there: Home, base: Version, tmp_path: Path) -> Path:
    """An archive of the base, by a key that is trusted there."""
    return carried(store, home, there, base.ref, tmp_path / "base.sumika")


def carried(store: Store, home: Home, there: Home, ref: VersionRef, file: Path) -> Path:
    exporting.export(store, home, ref, file)
    signing.trust(there, signing.line(signing.show(home)), "honsha")
    return file


def brought(their_store: Store, there: Home, file: Path, name: str = "base") -> Version:
    return importing.import_archive(their_store, there, name, file, max_lora_rank=RANK)


def refused(their_store: Store, there: Home, data: bytes | Path, *codes: str) -> SumikaError:
    """What is said to an archive; that nothing of it stays is seen to here."""
    file = data if isinstance(data, Path) else there.root.parent / "carried.sumika"
    if isinstance(data, bytes):
        file.write_bytes(data)
    with pytest.raises(SumikaError) as told:
        brought(their_store, there, file)
    assert told.value.code in codes, told.value.en
    assert told.value.en.endswith(".") and told.value.ja.endswith("。")
    nothing_left(their_store, there)
    return told.value


def nothing_left(store: Store, home: Home, versions: int = 0) -> None:
    with store.read() as connection:
        assert len(registry.list_all(connection)) == versions
        named = registry.folders(connection)
    assert {p.relative_to(home.artifacts).as_posix() for p in home.artifacts.glob("*/*")} == named


def parts(good: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header and the files of an archive, by a tar reader that is not ours."""
    with tarfile.open(good) as tar:
        held = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    header = json.loads(held.pop(HEADER))
    del held[SIGNATURE]
    return header, held


def signed(home: Home, header: dict[str, Any] | bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The first two members, validly signed, whatever the header says."""
    raw = header if isinstance(header, bytes) else canonical(header)
    return [plain(HEADER, raw), plain(SIGNATURE, signing.sign(home, raw))]


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def plain(name: str, data: bytes, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    for info, data in members:
        out.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
    return out.getvalue() + bytes(1024)


def describing(header: dict[str, Any], files: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    """A header that fits other files."""
    import hashlib

    listed = [{"name": n, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in sorted(files.items())]
    digest = manifest.digest_of({f["name"]: manifest.FileEntry(f["bytes"], f["sha256"]) for f in listed})
    return header | {"files": listed, "digest": digest} | changes


# There and back


def test_base_and_adapter_come_over_whole(
    store: Store,
    home: Home,
    their_store: Store,
    there: Home,
    base: Version,
    good: Path,
    make_adapter: MakeAdapter,
    tmp_path: Path,
) -> None:
    meta = {"training": {"data_sha256": "ab" * 32}, "evaluation": {"base": 0.25}}
    faq = importing.import_adapter(
        store, home, "faq", make_adapter(proven=True), base=base.ref, max_lora_rank=RANK, gate="passed", meta=meta
    )
    file = carried(store, home, there, faq.ref, tmp_path / "faq.sumika")
    assert refused(their_store, there, file, "missing_base").en.count("base@1") == 2
    their_base = brought(their_store, there, good, "gemma")
    for _ in range(2):  # the same files are the same version
        their_faq = brought(their_store, there, file, "soumu-faq")
        assert (their_faq.ref, their_faq.base) == (VersionRef("soumu-faq", 1), their_base.ref)
    key = signing.fingerprint(signing.show(home))
    assert their_faq.gate == "passed" and their_faq.meta == meta | {"imported": {"key": key, "from": "faq@1"}}
    assert their_base.meta == base.meta | {"imported": {"key": key, "from": "base@1"}}
    assert (their_base.digest, their_faq.digest) == (base.digest, faq.digest)
    for ours, theirs in ((base, their_base), (faq, their_faq)):
        folder = there.artifacts / theirs.folder
        assert differences.find(folder, theirs.digest) == []
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            p.name: p.read_bytes() for p in (home.artifacts / ours.folder).iterdir()
        }
    nothing_left(their_store, there, 2)


def test_any_tar_reads_it_and_what_came_in_goes_out_again(their_store: Store, there: Home, good: Path, tmp_path: Path) -> None:
    shown = subprocess.run(["tar", "-tf", good], capture_output=True, text=True, check=True).stdout.split()  # noqa: S607
    assert shown[:2] == [HEADER, SIGNATURE] and "model.safetensors" in shown
    again = exporting.export(their_store, there, brought(their_store, there, good).ref, tmp_path / "again.sumika")
    assert again.meta["imported"]["from"] == "base@1"
    assert brought(their_store, there, tmp_path / "again.sumika", "other").ref == VersionRef("other", 1)  # the own key


def test_number_is_the_next_free_one(their_store: Store, there: Home, good: Path, tmp_path: Path) -> None:
    importing.import_base(their_store, there, "base", write_base(tmp_path / "other", seed=9))
    assert brought(their_store, there, good).ref == VersionRef("base", 2)


def test_adapter_takes_the_base_with_the_same_files_only(
    store: Store, home: Home, their_store: Store, there: Home, base: Version, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    faq = importing.import_adapter(store, home, "faq", make_adapter(), base=base.ref, max_lora_rank=RANK)
    file = carried(store, home, there, faq.ref, tmp_path / "faq.sumika")
    importing.import_base(their_store, there, "base", write_base(tmp_path / "other", seed=9))
    with pytest.raises(SumikaError) as told:
        brought(their_store, there, file, "faq")
    assert told.value.code == "missing_base"
    nothing_left(their_store, there, 1)


# Changed on the way


def test_every_flipped_byte_is_refused(their_store: Store, there: Home, good: Path) -> None:
    whole = good.read_bytes()
    header_end = 512 + (len(canonical(parts(good)[0])) + 511) // 512 * 512
    signature_end = header_end + 1024
    last = len(whole) - 1
    places = {
        *range(0, signature_end + 700, 7),
        *range(header_end + 512, header_end + 608),
        *range(signature_end, last, 997),
        last,
    }
    for place in sorted(places):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        refused(their_store, there, bytes(changed), "bad_archive", "bad_signature")
    assert brought(their_store, there, good).ref == VersionRef("base", 1)


def test_shortened_and_lengthened_are_refused(their_store: Store, there: Home, good: Path) -> None:
    whole = good.read_bytes()
    for length in (0, 1, 511, 512, 600, 1024, 1500, 2048, 2600, len(whole) // 2, len(whole) - 1024, len(whole) - 1):
        refused(their_store, there, whole[:length], "bad_archive", "bad_signature")
    for more in (b"\0", bytes(512), bytes(8192), b"x", whole):
        refused(their_store, there, whole + more, "bad_archive")


def test_what_is_no_archive_is_refused(their_store: Store, there: Home, tmp_path: Path) -> None:
    for data in (b"", b"x" * 5000, bytes(4096), b"PK\x03\x04" + bytes(600), b"\x1f\x8b" + bytes(600)):
        refused(their_store, there, data, "bad_archive")
    refused(their_store, there, tmp_path / "absent.sumika", "bad_archive")
    os.mkfifo(tmp_path / "pipe.sumika")
    refused(their_store, there, tmp_path / "pipe.sumika", "bad_archive")
    refused(their_store, there, tmp_path, "bad_archive")


# Validly signed by a trusted key, and still not to be believed


LAID_OUT_WRONGLY: dict[str, Callable[[list[Any]], list[Any]]] = {
    "extra at the end": lambda m: [*m, plain("more.json", b"{}")],
    "extra in between": lambda m: [*m[:3], plain("more.json", b"{}"), *m[3:]],
    "duplicate": lambda m: [*m[:3], m[2], *m[3:]],
    "missing": lambda m: [*m[:2], *m[3:]],
    "other order": lambda m: [*m[:2], m[3], m[2], *m[4:]],
    "signature first": lambda m: [m[1], m[0], *m[2:]],
    "path upwards": lambda m: [*m[:2], plain("../" + m[2][0].name, m[2][1]), *m[3:]],
    "absolute path": lambda m: [*m[:2], plain("/" + m[2][0].name, m[2][1]), *m[3:]],
    "in a folder": lambda m: [*m[:2], plain("x/" + m[2][0].name, m[2][1]), *m[3:]],
    "symlink": lambda m: [*m[:2], plain(m[2][0].name, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), *m[3:]],
    "hard link": lambda m: [*m[:2], plain(m[2][0].name, b"", type=tarfile.LNKTYPE, linkname=HEADER), *m[3:]],
    "device": lambda m: [*m[:2], plain(m[2][0].name, b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5), *m[3:]],
    "fifo": lambda m: [*m[:2], plain(m[2][0].name, b"", type=tarfile.FIFOTYPE), *m[3:]],
    "folder": lambda m: [*m[:2], plain(m[2][0].name, b"", type=tarfile.DIRTYPE), *m[3:]],
    "sparse": lambda m: [*m[:2], plain(m[2][0].name, m[2][1], type=tarfile.GNUTYPE_SPARSE), *m[3:]],
    "setuid": lambda m: [*m[:2], plain(m[2][0].name, m[2][1], mode=0o4755), *m[3:]],
    "GNU long name": lambda m: [
        *m[:2], plain("././@LongLink", b"../../x\0", type=tarfile.GNUTYPE_LONGNAME), *m[2:],
    ],
    "pax header": lambda m: [*m[:2], plain("x", b"19 path=/etc/passwd\n", type=tarfile.XHDTYPE), *m[2:]],
    "long name before all": lambda m: [plain("././@LongLink", b"header.json\0", type=tarfile.GNUTYPE_LONGNAME), *m],
}  # fmt: skip


@pytest.mark.parametrize("wrong", LAID_OUT_WRONGLY)
def test_any_other_layout_is_refused(home: Home, their_store: Store, there: Home, good: Path, wrong: str) -> None:
    header, files = parts(good)
    members = [*signed(home, header), *(plain(name, data) for name, data in files.items())]
    assert tar(*members) == good.read_bytes()
    changed = tar(*LAID_OUT_WRONGLY[wrong](members))
    refused(their_store, there, changed, "bad_archive")
    # and the same with the size that is expected, so that not only the length tells
    refused(their_store, there, changed[: len(good.read_bytes())].ljust(len(good.read_bytes()), b"\0"), "bad_archive")
    assert not (there.root / "x").exists() and not (there.artifacts / "x").exists()


@pytest.mark.parametrize("said", [0, 1, 2**33, 2**62])
def test_lying_sizes_are_refused(home: Home, their_store: Store, there: Home, good: Path, said: int) -> None:
    header, files = parts(good)
    members = [*signed(home, header), *(plain(name, data) for name, data in files.items())]
    for at in (0, 1, 2):
        lying = [*members[:at], (plain(members[at][0].name, b"", size=said)[0], members[at][1]), *members[at + 1 :]]
        refused(their_store, there, tar(*lying), "bad_archive")
    first = header["files"][0]
    header["files"][0] = first | {"bytes": said}
    refused(their_store, there, tar(*signed(home, header), *members[2:]), "bad_archive")


def test_other_contents_of_the_same_size_are_refused(home: Home, their_store: Store, there: Home, good: Path) -> None:
    header, files = parts(good)
    files["config.json"] = files["config.json"].replace(b"512", b"513")
    told = refused(their_store, there, tar(*signed(home, header), *(plain(n, d) for n, d in files.items())), "bad_archive")
    assert "config.json" in told.en


WRONG_HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "newer format": lambda h: h | {"format": 2},
    "no format": lambda h: {k: v for k, v in h.items() if k != "format"},
    "unknown field": lambda h: h | {"run": "x"},
    "a list": lambda h: [h],
    "no files": lambda h: h | {"files": []},
    "other digest": lambda h: h | {"digest": "0" * 64},
    "unknown kind": lambda h: h | {"kind": "code"},
    "unknown gate": lambda h: h | {"gate": "great"},
    "adapter of no base": lambda h: h | {"kind": "adapter"},
    "name upwards": lambda h: h | {"name": "../x"},
    "name with newline": lambda h: h | {"name": "base\n"},
    "number as text": lambda h: h | {"number": "1"},
    "number 0": lambda h: h | {"number": 0},
    "meta is a list": lambda h: h | {"meta": []},
    "settings no engine takes": lambda h: h | {"meta": {"serve": {"max_model_len": 512, "trust_remote_code": True}}},
    "settings are no settings": lambda h: h | {"meta": {"serve": "--trust-remote-code"}},
    "not a number": lambda h: json.dumps(h | {"meta": {"x": float("nan")}}, sort_keys=True, separators=(",", ":")).encode(),
    "spaces": lambda h: json.dumps(h, sort_keys=True).encode(),
    "key twice": lambda h: canonical(h).replace(b'"kind":"base"', b'"kind":"adapter","kind":"base"'),
    "not JSON": lambda h: b"{",
    "not UTF-8": lambda h: canonical(h) + b"\xff",
    "deep": lambda h: b"[" * 200_000,
    "large integer": lambda h: canonical(h).replace(b'"number":1', b'"number":' + b"9" * 5000),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_HEADERS)
def test_header_that_no_sumika_writes_is_refused(home: Home, their_store: Store, there: Home, good: Path, wrong: str) -> None:
    header, files = parts(good)
    data = tar(*signed(home, WRONG_HEADERS[wrong](header)), *(plain(n, d) for n, d in files.items()))
    told = refused(their_store, there, data, "bad_archive")
    assert ("format 1" in told.en) == (wrong in ("newer format", "no format"))


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/b.json", "a\\b.json", "..", ".hidden.json", "", "x\0.json", "x\n.json", "x" * 200 + ".json",
             "x\u202e.json", HEADER, manifest.MANIFEST, "CONFIG.JSON", "\ud800.json"],
)  # fmt: skip
def test_name_that_is_no_plain_file_is_refused(home: Home, their_store: Store, there: Home, good: Path, name: str) -> None:
    header, files = parts(good)
    files[name] = b"{}"
    members = [plain("stand-in", data) if n == name else plain(n, data) for n, data in sorted(files.items())]
    refused(their_store, there, tar(*signed(home, describing(header, files)) if "\ud800" not in name else
            signed(home, header | {"files": [*header["files"], {"name": name, "bytes": 0, "sha256": "0" * 64}]}), *members),
            "bad_archive")  # fmt: skip


@pytest.mark.parametrize("name", ["modeling.py", "weights.bin", "x.so", "sitecustomize.py", "x.pth", "x.pkl"])
def test_signed_code_is_refused_by_the_same_rules_as_a_folder(
    home: Home, their_store: Store, there: Home, good: Path, name: str
) -> None:
    header, files = parts(good)
    files[name] = b"import os"
    data = tar(*signed(home, describing(header, files)), *(plain(n, d) for n, d in sorted(files.items())))
    assert name in refused(their_store, there, data, "bad_source").en


def test_signed_folder_that_is_no_model_is_refused(home: Home, their_store: Store, there: Home, good: Path) -> None:
    header, files = parts(good)
    for wrong in (
        {"config.json": b'{"architectures": ["X"], "model_type": "x", "auto_map": {}}'},
        {"model.safetensors": b"x" * 9},
    ):
        changed = files | wrong
        data = tar(*signed(home, describing(header, changed)), *(plain(n, d) for n, d in sorted(changed.items())))
        refused(their_store, there, data, "bad_model", "bad_weights")


def test_huge_header_is_refused_unread(their_store: Store, there: Home, tmp_path: Path) -> None:
    for said in (LONGEST_HEADER + 1, 2**40):
        file = tmp_path / "huge.sumika"
        with file.open("wb") as out:
            out.write(plain(HEADER, b"", size=said)[0].tobuf(tarfile.GNU_FORMAT))
            out.truncate(min(said + 512, 2**33))  # sparse
        began = time.thread_time()  # work, not waiting: the machine may be busy
        refused(their_store, there, file, "bad_archive")
        assert time.thread_time() - began < 2


def test_many_files_are_refused(home: Home, their_store: Store, there: Home, good: Path) -> None:
    header, files = parts(good)
    many = files | {f"{n}.txt": b"" for n in range(5000)}
    refused(their_store, there, tar(*signed(home, describing(header, many))), "bad_archive")


# Keys


def test_stranger_is_refused_until_trusted(
    store: Store, home: Home, their_store: Store, there: Home, base: Version, tmp_path: Path
) -> None:
    file = tmp_path / "base.sumika"
    exporting.export(store, home, base.ref, file)
    told = refused(their_store, there, file, "untrusted_key")
    assert signing.fingerprint(signing.show(home)) in told.en
    assert not (there.root / "signing.key").exists()  # reading makes no key
    signing.trust(there, signing.line(signing.show(home)), "honsha")
    assert brought(their_store, there, file).ref == VersionRef("base", 1)
    (there.root / "trusted" / "archives" / "honsha.pub").unlink()
    with pytest.raises(SumikaError, match="not trusted"):
        brought(their_store, there, file)


def test_signature_made_with_another_key_under_a_trusted_name_is_refused(
    home: Home, their_store: Store, there: Home, good: Path, tmp_path: Path
) -> None:
    thief = Home(tmp_path / "thief")
    thief.create()
    header, files = parts(good)
    members = signed(thief, header)
    ours = signing.show(home).public_bytes_raw()
    members[1] = plain(SIGNATURE, ours + members[1][1][32:])
    refused(their_store, there, tar(*members, *(plain(n, d) for n, d in files.items())), "bad_signature")


def test_key_is_private_and_made_once(home: Home) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(signing.line(signing.show(home)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert stat.S_IMODE((home.root / "signing.key").stat().st_mode) == 0o600
    (home.root / "signing.key").write_bytes(b"spoiled")
    with pytest.raises(SumikaError) as told:
        signing.show(home)
    assert told.value.code == "bad_key" and "signing.key" in told.value.en


def test_trust_takes_ed25519_keys_under_plain_names_only(home: Home, there: Home) -> None:
    key = signing.line(signing.show(home))
    for text in (
        "",
        "x",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==",
        key[:-4],
        "x" * 10_000,
        "鍵",
    ):
        with pytest.raises(SumikaError) as told:
            signing.trust(there, text, "honsha")
        assert told.value.code == "bad_key"
    for name in ("../x", "", "A", "x/y", "latest"):
        with pytest.raises(SumikaError) as told:
            signing.trust(there, key, name)
        assert told.value.code == "bad_name"
    signing.trust(there, key, "honsha")
    signing.trust(there, f"{key} a comment\n", "honsha")
    with pytest.raises(SumikaError) as told:
        signing.trust(there, signing.line(signing.show(there)), "honsha")
    assert told.value.code == "exists"
    assert [p.name for p in (there.root / "trusted" / "archives").iterdir()] == ["honsha.pub"]


def test_file_under_trusted_that_is_no_key_is_named(their_store: Store, there: Home, good: Path) -> None:
    (there.root / "trusted" / "archives" / "x.pub").write_text("nonsense")
    assert "x.pub" in refused(their_store, there, good, "bad_key").en


# Writing


def test_export_replaces_nothing_unasked(store: Store, home: Home, base: Version, good: Path, tmp_path: Path) -> None:
    before = good.read_bytes()
    good.write_bytes(b"precious")
    for file in (good, tmp_path / "base"):
        with pytest.raises(SumikaError) as told:
            exporting.export(store, home, base.ref, file)
        assert told.value.code == ("exists" if file == good else "bad_archive")
    assert good.read_bytes() == b"precious"
    exporting.export(store, home, base.ref, good, force=True)
    assert good.read_bytes() == before  # and nothing in it depends on the day
    (tmp_path / "folder.sumika").mkdir()
    with pytest.raises(SumikaError) as told:
        exporting.export(store, home, base.ref, tmp_path / "folder.sumika", force=True)
    assert told.value.code == "exists"
    with pytest.raises(SumikaError) as told:
        exporting.export(store, home, base.ref, tmp_path / "absent" / "x.sumika")
    assert told.value.code == "not_found"


@pytest.mark.parametrize("how", ["flipped", "longer", "shorter", "missing", "added", "manifest"])
def test_version_changed_on_disk_is_not_vouched_for(store: Store, home: Home, base: Version, tmp_path: Path, how: str) -> None:
    folder = home.artifacts / base.folder
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    if how == "missing":
        weights.unlink()
    elif how == "added":
        (folder / "added.json").write_text("{}")
    elif how == "manifest":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["config.json"]["sha256"] = "0" * 64
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        changed = {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + b"x", "shorter": data[:-1]}
        weights.write_bytes(changed[how])
    before = set(tmp_path.iterdir())
    with pytest.raises(SumikaError) as told:
        exporting.export(store, home, base.ref, tmp_path / "x.sumika")
    assert told.value.code == "broken_artifact" and "base@1" in told.value.en
    assert set(tmp_path.iterdir()) == before


def test_disk_that_fills_up_leaves_nothing_half_made(
    store: Store, home: Home, their_store: Store, there: Home, base: Version, good: Path, tmp_path: Path
) -> None:
    import resource

    signing.show(there)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = set(tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(SumikaError) as told:
            exporting.export(store, home, base.ref, tmp_path / "x.sumika")
        with archive.opened(good, there) as source, pytest.raises(SumikaError) as theirs:
            artifacts.stage_with(there.artifacts, source.header.total, source.extract)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert told.value.code == theirs.value.code == "disk_full"
    assert set(tmp_path.iterdir()) == before
    nothing_left(their_store, there)


def test_disk_too_small_is_told_before_a_byte_is_written(
    store: Store,
    home: Home,
    their_store: Store,
    there: Home,
    base: Version,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    refused(their_store, there, good, "disk_full")
    with pytest.raises(SumikaError) as told:
        exporting.export(store, home, base.ref, tmp_path / "x.sumika")
    assert told.value.code == "disk_full"


def test_large_files_and_japanese_names_have_a_block(tmp_path: Path) -> None:
    for name, length in (("model.safetensors", 2**40), ("説明書.md", 5), ("x" * 100, 0)):
        info = tarfile.TarInfo.frombuf(archive._block(name, length), "utf-8", "strict")
        assert (info.name, info.size, info.isreg()) == (name, length, True)


def test_import_killed_at_any_moment_is_never_visible(
    store: Store, home: Home, their_store: Store, there: Home, base_folder: Path, tmp_path: Path
) -> None:
    with (base_folder / "notes.txt").open("wb") as file:
        file.truncate(200 * 2**20)
    large = importing.import_base(store, home, "large", base_folder)
    archived = carried(store, home, there, large.ref, tmp_path / "large.sumika")
    script = (
        "from pathlib import Path; from sumika.models import importing; from sumika.models.home import Home;"
        "from sumika.models.store import Store; print('go', flush=True);"
        f"importing.import_archive(Store('sqlite:///{there.database}'), Home(Path('{there.root}')), 'large',"
        f" Path('{archived}'), max_lora_rank=16)"
    )
    killed = 0
    for delay in (0.0, 0.05, 0.15, 0.3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        with their_store.read() as connection:
            for version in registry.list_all(connection):
                assert differences.find(there.artifacts / version.folder, version.digest) == []
            named = registry.folders(connection)
        artifacts.sweep(there.artifacts, lambda named=named: named)  # type: ignore[misc]
        assert {p.relative_to(there.artifacts).as_posix() for p in there.artifacts.glob("*/*")} == named
    assert killed >= 2, "the kills came too late to show anything"


# By the command line


def test_commands(tmp_path: Path, base_folder: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUMIKA_LANG", "en")

    def at(place: str, *words: str) -> Any:
        monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / place))
        told = CliRunner().invoke(main.build(), [*words, "--json"])
        if isinstance(told.exception, SumikaError):
            return told.exception.code
        assert told.exit_code == 0, told.output + repr(told.exception)
        return json.loads(told.stdout)

    at("a", "models", "import", "base", str(base_folder))
    at("a", "models", "import", "faq", str(make_adapter(proven=True)), "--base", "base@1")
    key = at("a", "signing", "show")["key"]
    (tmp_path / "a.pub").write_text(key + "\n")
    files = {name: str(tmp_path / f"{name}.sumika") for name in ("base", "faq")}
    assert at("a", "models", "export", "base@1", files["base"])["base"] is None
    assert at("a", "models", "export", "faq@1", files["faq"])["base"] == "base@1"
    assert at("a", "models", "export", "faq@1", files["faq"]) == "exists"
    at("a", "models", "export", "faq@1", files["faq"], "--force")
    assert at("b", "models", "import", "base", files["base"]) == "untrusted_key"
    assert at("b", "signing", "trust", str(tmp_path / "absent.pub"), "honsha") == "bad_key"
    assert at("b", "signing", "trust", str(tmp_path / "a.pub"), "honsha")["trusted"] == "honsha"
    assert at("b", "signing", "trust", key, "honsha")["trusted"] == "honsha"
    assert at("b", "models", "import", "faq", files["faq"]) == "missing_base"
    assert at("b", "models", "import", "base", files["base"], "--base", "base@1") == "bad_lineage"
    at("b", "models", "import", "base", files["base"])
    assert at("b", "models", "import", "faq", files["faq"])["imported"]["from"] == "faq@1"
    assert [list(one) for one in at("b", "signing", "show")["trusted"].values()] == [["honsha"], [], []]


def test_header_written_is_header_read(good: Path, there: Home) -> None:
    with archive.opened(good, there) as source:
        assert Header.model_validate(json.loads(source.header.to_bytes())) == source.header
