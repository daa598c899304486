"""Folders that people hand in: odd names, odd files, a disk that fills up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sumika.models import artifacts, differences, importing, registry
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store
from tests.conftest import ROOT


def refused(store: Store, home: Home, source: Path) -> SumikaError:
    with pytest.raises(SumikaError) as told:
        importing.import_base(store, home, "base", source)
    with store.read() as connection:
        assert registry.list_all(connection) == []
    assert [p for p in home.artifacts.rglob("*") if p.is_file() and p.name != ".lock"] == []
    assert told.value.en.isprintable() and len(told.value.en) < 600
    return told.value


@pytest.mark.parametrize("name", [b"\xff\xfe.json", b"a\nb.json", b"a\x1b[31m.json"])
def test_file_with_a_name_nobody_can_read_is_refused(store: Store, home: Home, base_folder: Path, name: bytes) -> None:
    (base_folder / os.fsdecode(name)).write_text("{}")
    assert refused(store, home, base_folder).code == "bad_source"


def test_pipe_dangling_link_and_folder_are_refused(store: Store, home: Home, base_folder: Path) -> None:
    odd = base_folder / "odd.json"
    os.mkfifo(odd)
    assert refused(store, home, base_folder).code == "bad_source"
    odd.unlink()
    odd.symlink_to("nothing.json")
    assert refused(store, home, base_folder).code == "bad_source"
    odd.unlink()
    odd.mkdir()
    assert refused(store, home, base_folder).code == "bad_source"
    odd.rmdir()
    odd.symlink_to("/etc", target_is_directory=True)
    assert refused(store, home, base_folder).code == "bad_source"


@pytest.mark.parametrize("source", ["nothing", "base/config.json"])
def test_source_that_is_no_folder_is_refused(store: Store, home: Home, base_folder: Path, source: str) -> None:
    assert refused(store, home, base_folder.parent / source).code == "bad_source"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 200_000, "{}", '{"architectures": [], "model_type": 1, "auto_map": {"a": "b.c"}}', "\x00"],
    ids=lambda text: text[:9],
)  # fmt: skip
def test_config_that_names_no_model_is_refused(store: Store, home: Home, base_folder: Path, text: str) -> None:
    (base_folder / "config.json").write_text(text)
    assert refused(store, home, base_folder).code == "bad_model"


@pytest.mark.parametrize(
    "text", ['{"weight_map": []}', '{"weight_map": {"a": 1}}', "[]", '{"weight_map": {"a": "../x.safetensors"}}']
)
def test_index_that_names_no_weights_is_refused(store: Store, home: Home, base_folder: Path, text: str) -> None:
    (base_folder / "model.safetensors.index.json").write_text(text)
    assert refused(store, home, base_folder).code == "bad_model"


@pytest.mark.parametrize("value", ["null", '"x"', "-5", "1e999", "[]", "true"])
def test_context_length_that_is_no_number_is_refused(store: Store, home: Home, base_folder: Path, value: str) -> None:
    text = f'{{"architectures": ["X"], "model_type": "x", "max_position_embeddings": {value}}}'
    (base_folder / "config.json").write_text(text)
    assert refused(store, home, base_folder).code == "bad_model"


def test_weights_cut_short_are_refused(store: Store, home: Home, base_folder: Path) -> None:
    weights = base_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert refused(store, home, base_folder).code == "bad_weights"


def test_hidden_files_and_a_foreign_manifest_are_left_behind(store: Store, home: Home, base_folder: Path) -> None:
    (base_folder / ".gitattributes").write_text("x")
    (base_folder / "manifest.json").write_text('{"files": {"evil": {"bytes": 1, "sha256": "x"}}}')
    version = importing.import_base(store, home, "base", base_folder)
    folder = home.artifacts / version.folder
    assert differences.find(folder, version.digest) == [] and not (folder / ".gitattributes").exists()


def test_digest_depends_on_names_and_contents_only(home: Home, base_folder: Path, tmp_path: Path) -> None:
    first = artifacts.stage(home.artifacts, base_folder).digest
    os.utime(base_folder / "config.json", (1, 1))
    assert artifacts.stage(home.artifacts, base_folder).digest == first
    (base_folder / "tokenizer.json").rename(base_folder / "tokenizer2.json")
    assert artifacts.stage(home.artifacts, base_folder).digest != first


def test_disk_that_fills_up_while_copying_is_told_as_such(store: Store, home: Home, base_folder: Path) -> None:
    """In a process of its own, whose files may grow to 2 kB (which for the writer is as if the disk were full)."""
    (base_folder / "notes.txt").write_bytes(b"x" * 100_000)
    code = (
        "import resource, signal, sys; from pathlib import Path; from sumika.models import artifacts\n"
        "from sumika.models.errors import SumikaError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
        f"try: artifacts.stage(Path({str(home.artifacts)!r}), Path({str(base_folder)!r}))\n"
        "except SumikaError as error: print(error.code)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.stdout.strip() == "disk_full", told.stderr
    assert list((home.artifacts / ".staging").iterdir()) == []


@pytest.mark.parametrize("step", ["staged", "moved"])
def test_import_killed_between_its_steps_is_not_there(store: Store, home: Home, base_folder: Path, step: str) -> None:
    """Killed at the exact moments that matter: all files copied, and files moved home but no row committed."""
    # The statement at which the process kills itself: `settle` is the last thing inside the transaction.
    where = {"staged": "before", "moved": "after"}[step]
    code = (
        "import os, signal, sys; from pathlib import Path; from sumika.models import importing\n"
        "from sumika.models.artifacts import Staged; from sumika.models.home import Home; from sumika.models.store import Store\n"
        "def trace(frame, event, arg):\n"
        "    if frame.f_code is Staged.settle.__code__ and event == {'before': 'call', 'after': 'return'}[sys.argv[1]]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return trace\n"
        "sys.settrace(trace)\n"
        f"importing.import_base(Store('sqlite:///{home.database}'), Home(Path({str(home.root)!r})), 'base', Path({str(base_folder)!r}))"
    )
    killed = subprocess.run([sys.executable, "-c", code, where], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = list(home.artifacts.rglob("model.safetensors"))
    assert len(left) == 1 and (left[0].parent.parent.name == ".staging") == (step == "staged"), "killed at another moment"
    with store.read() as connection:
        assert registry.list_all(connection) == [] and registry.folders(connection) == set()
    assert artifacts.sweep(home.artifacts, set)
    assert list(home.artifacts.rglob("model.safetensors")) == []
    assert importing.import_base(store, home, "base", base_folder).ref.number == 1
