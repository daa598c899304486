from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sumika.models import artifacts, differences, importing, registry
from sumika.models.errors import SumikaError
from sumika.models.home import Home, write_atomically
from sumika.models.manifest import MANIFEST
from sumika.models.store import Store
from tests.conftest import ROOT


def test_import_copies_in_and_verifies(store: Store, home: Home, base_folder: Path) -> None:
    version = importing.import_base(store, home, "base", base_folder)
    folder = home.artifacts / version.folder
    assert (folder / "model.safetensors").read_bytes() == (base_folder / "model.safetensors").read_bytes()
    assert differences.find(folder, version.digest) == []
    (base_folder / "model.safetensors").unlink()
    assert differences.find(folder, version.digest) == []


def test_import_of_the_same_files_is_the_same_version(store: Store, home: Home, base_folder: Path) -> None:
    first, again = (importing.import_base(store, home, "base", base_folder) for _ in range(2))
    assert first == again and len(list((home.artifacts / "base").iterdir())) == 1
    (base_folder / "README.md").write_text("changed")
    assert importing.import_base(store, home, "base", base_folder).ref.number == 2


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "x.pt", "x.pth", "x.pkl", "modeling.py", "x.so", "x.npy", "sitecustomize.py", "x.exe"]
)
def test_file_that_could_run_code_is_refused(store: Store, home: Home, base_folder: Path, name: str) -> None:
    (base_folder / name).write_bytes(b"x")
    with pytest.raises(SumikaError, match=name) as told:
        importing.import_base(store, home, "base", base_folder)
    assert told.value.code == "bad_source"
    nothing_left(store, home)


def test_link_out_of_the_folder_is_refused_and_one_within_is_followed(
    store: Store, home: Home, base_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (base_folder / "x.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(SumikaError, match="link"):
        importing.import_base(store, home, "base", base_folder)
    nothing_left(store, home)
    (base_folder / "x.json").unlink()
    (base_folder / "x.json").symlink_to("config.json")
    folder = home.artifacts / importing.import_base(store, home, "base", base_folder).folder
    assert not (folder / "x.json").is_symlink()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_base_with_a_file_missing_is_refused(store: Store, home: Home, base_folder: Path, missing: str) -> None:
    (base_folder / missing).unlink()
    with pytest.raises(SumikaError) as told:
        importing.import_base(store, home, "base", base_folder)
    assert told.value.code == "bad_model"
    nothing_left(store, home)


def test_base_that_brings_its_own_code_or_lacks_a_shard_is_refused(store: Store, home: Home, base_folder: Path) -> None:
    (base_folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    with pytest.raises(SumikaError, match=r"model-2\.safetensors is missing"):
        importing.import_base(store, home, "base", base_folder)
    (base_folder / "model.safetensors.index.json").unlink()
    (base_folder / "config.json").write_text('{"architectures": ["X"], "model_type": "x", "auto_map": {}}')
    with pytest.raises(SumikaError, match="auto_map"):
        importing.import_base(store, home, "base", base_folder)
    nothing_left(store, home)


def test_changed_missing_and_added_files_are_told(store: Store, home: Home, base_folder: Path) -> None:
    version = importing.import_base(store, home, "base", base_folder)
    folder = home.artifacts / version.folder
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").unlink()
    (folder / "added.json").write_text("{}")
    told = [(found.file, found.kind) for found in differences.find(folder, version.digest)]
    assert told == [("config.json", "shorter"), ("tokenizer.json", "missing"), ("added.json", "added")]


def test_import_killed_at_any_moment_is_never_visible_and_swept_away(home: Home, store: Store, base_folder: Path) -> None:
    with (base_folder / "notes.txt").open("wb") as file:
        file.truncate(400 * 2**20)
    script = (
        "import sys; from pathlib import Path; from sumika.models import importing; from sumika.models.home import Home;"
        "from sumika.models.store import Store; print('go', flush=True);"
        f"importing.import_base(Store('sqlite:///{home.database}'), Home(Path('{home.root}')), 'base', Path('{base_folder}'))"
    )
    killed = 0
    for delay in (0.0, 0.05, 0.15, 0.3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        with store.read() as connection:
            for version in registry.list_all(connection):
                assert differences.find(home.artifacts / version.folder, version.digest) == []
            named = registry.folders(connection)
        artifacts.sweep(home.artifacts, lambda named=named: named)  # type: ignore[misc]
        assert {p.relative_to(home.artifacts).as_posix() for p in home.artifacts.glob("*/*")} == named
    assert killed >= 2, "the kills came too late to show anything"


def test_sweep_leaves_a_running_import_alone(home: Home, store: Store, base_folder: Path) -> None:
    with artifacts.bringing_in(home.artifacts):
        staged = artifacts.stage(home.artifacts, base_folder)
        assert artifacts.sweep(home.artifacts, set) == [] and (staged.folder / MANIFEST).exists()
    assert artifacts.sweep(home.artifacts, set) == [f".staging/{staged.folder.name}"]


def test_disk_that_fills_up_leaves_nothing_half_made(home: Home, store: Store, base_folder: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises((OSError, SumikaError)):
            artifacts.stage(home.artifacts, base_folder)
        with pytest.raises(OSError):
            write_atomically(home.root / "file", b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    nothing_left(store, home)
    assert not (home.root / "file").exists() and not list(home.root.glob(".file*"))


def nothing_left(store: Store, home: Home) -> None:
    with store.read() as connection:
        assert registry.list_all(connection) == []
    left = [path for path in home.artifacts.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []
    assert os.path.isdir(home.artifacts)
