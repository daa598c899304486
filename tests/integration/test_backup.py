"""A backup taken while requests run, and a bare machine that goes on from it: on SQLite and PostgreSQL, and from one to the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from sumika.models import aliases, backup, importing, schema
from sumika.models.audit.verify import verify
from sumika.models.backup import pack
from sumika.models.backup.scratch import scratch
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.settings import Settings
from tests.conftest import ROOT, write_adapter, write_base
from tests.integration.conftest import Stack, finish, start, until
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@contextmanager
def load(stack: Stack, key: str, answered: list[str]) -> Iterator[None]:
    """Requests without a pause; `answered` is told the ids of those that were answered."""
    over = threading.Event()

    def ask() -> None:
        with stack.client(key) as client:
            while not over.is_set():
                body = {"model": "faq", "messages": [{"role": "user", "content": "hello"}]}
                response = client.post("/v1/chat/completions", json=body)
                assert response.status_code == 200, response.text
                answered.append(response.headers["x-request-id"])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


def noted(stack: Stack) -> set[str]:
    with stack.store.read() as connection:
        return set(connection.scalars(select(schema.usage.c.request)))


def commanded(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sumika.cli.main", *words]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres"), ("postgres", "sqlite")])
def test_bare_machine_serves_what_the_backup_holds(
    tmp_path: Path, source: str, target: str, request: pytest.FixtureRequest
) -> None:
    url = {"SUMIKA_DATABASE_URL": request.getfixturevalue("postgres_url")} if "postgres" in (source, target) else {}
    (tmp_path / "old").mkdir()
    old = start(tmp_path / "old", **(url if source == "postgres" else {}))
    base = old.base()
    first, second = (old.adapter("faq", base, seed=seed, proven=True) for seed in (1, 2))
    old.deploy("faq", first)
    old.deploy("faq", second)
    secret, _ = old.new_key()
    answered: list[str] = []
    file = tmp_path / "sumika.backup"
    with load(old, secret, answered):
        until(lambda: len(answered) > 20, what="requests are answered")
        time.sleep(1)  # those so far are in a journal, or further
        before = list(answered)[:-6]
        told = commanded(old.env, "backup", str(file))
        assert told.returncode == 0, told.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    finish(old)

    (tmp_path / "new").mkdir()
    settings = Settings(home=tmp_path / "new" / "home")
    env = {name: value for name, value in old.env.items() if name != "SUMIKA_DATABASE_URL"} | {"SUMIKA_HOME": str(settings.home)}
    told = commanded(env | (url if target == "postgres" else {}), "restore", str(file))
    assert told.returncode == 0, told.stderr
    new = start(tmp_path / "new", **(url if target == "postgres" else {}))
    until(
        lambda: new.served("faq") == str(second.ref) and new.chat("faq").status_code == 200,
        within=30,
        what="the same version serves",
    )
    with new.client(secret) as client:
        assert client.get("/v1/models/faq").json()["sumika"]["version"] == str(second.ref)
    assert new.admin_key == old.admin_key
    until(lambda: set(before) <= noted(new), what="what was acknowledged before the backup is counted")
    assert verify(new.store, new.settings.layout).ok
    new.base("another", seed=9)  # ids go on behind those that came in
    with new.store.write() as connection:
        move = aliases.ask_rollback(connection, "faq", actor="test", reason="")
    assert new.ended(move).state == "done"
    finish(new)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A backup of a home with a base and an adapter."""
    folder = tmp_path_factory.mktemp("backup")
    settings = Settings(home=folder / "home")
    store = open_store(settings)
    base = importing.import_base(store, settings.layout, "base", write_base(folder / "base"))
    importing.import_adapter(store, settings.layout, "faq", write_adapter(folder / "faq"), base=base.ref, max_lora_rank=16)
    backup.make(store, settings.layout, folder / "a.backup")
    store.close()
    return folder / "a.backup", settings


def test_changed_byte_anywhere_is_named_and_nothing_is_there_afterwards(made: tuple[Path, Settings], tmp_path: Path) -> None:
    data, file = made[0].read_bytes(), tmp_path / "b.backup"
    with tarfile.open(made[0]) as tar:
        places = {info.name: info.offset_data + info.size // 2 for info in tar if info.size and info.name != pack.MANIFEST}
    assert len(places) > 10
    for name, place in places.items():
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(SumikaError) as error:
            backup.restore(file, Home(tmp_path / "home"), None)
        assert error.value.code == "bad_backup" and name in error.value.en
    end = max(places.values())  # the manifest comes behind it
    for length in range(0, end, end // 20):
        file.write_bytes(data[:length])
        with pytest.raises(SumikaError):
            backup.restore(file, Home(tmp_path / "home"), None)
    assert [path.name for path in tmp_path.iterdir()] == ["b.backup"]


def test_version_that_vanishes_meanwhile_is_told(
    made: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_file = pack.Writer.add_file

    def gone(self: pack.Writer, name: str, path: Path) -> None:
        add_file(self, name, path if not name.startswith("home/artifacts/faq") else path.with_name("gone"))

    monkeypatch.setattr(pack.Writer, "add_file", gone)
    store = open_store(made[1])
    with pytest.raises(SumikaError) as error:
        backup.make(store, made[1].layout, tmp_path / "a.backup")
    store.close()
    assert error.value.code == "artifact_missing" and not list(tmp_path.iterdir())


def piped(env: dict[str, str], *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sumika.cli.main", *words]
    return subprocess.run(command, env=env, cwd=ROOT, input=data, capture_output=True, timeout=120, check=False)


def test_backup_goes_through_pipes(made: tuple[Path, Settings], tmp_path: Path) -> None:
    env = {**os.environ, "SUMIKA_LANG": "en"}
    sent = piped(env | {"SUMIKA_HOME": str(made[1].home)}, "backup", "-")
    assert sent.returncode == 0 and not sent.stderr, sent.stderr
    new = env | {"SUMIKA_HOME": str(tmp_path / "home")}
    for cut in (0, 1000, len(sent.stdout) // 2, len(sent.stdout) - 20_000):
        assert piped(new, "restore", "-", data=sent.stdout[:cut]).returncode == 1 and not list(tmp_path.iterdir())
    assert piped(new, "restore", "-", data=sent.stdout).returncode == 0
    old_key, new_key = (home / "admin.key" for home in (made[1].home, tmp_path / "home"))
    assert old_key.read_bytes() == new_key.read_bytes()
    assert piped(new, "doctor", "--deep", "--json").returncode == 0


def test_pipe_that_ends_early_is_told(made: tuple[Path, Settings]) -> None:
    env = {**os.environ, "SUMIKA_LANG": "en", "SUMIKA_HOME": str(made[1].home)}
    command = f"set -o pipefail; {sys.executable} -m sumika.cli.main backup - | head -c 100 >/dev/null"
    ended = subprocess.run(
        ["/bin/bash", "-c", command], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1 and "no backup" in ended.stderr and "Traceback" not in ended.stderr


def test_member_behind_the_manifest_is_refused(made: tuple[Path, Settings], tmp_path: Path) -> None:
    file = tmp_path / "more.backup"
    file.write_bytes(made[0].read_bytes())
    with tarfile.open(file, "a") as tar:
        tar.addfile(tarfile.TarInfo("home/late"))
    with pytest.raises(SumikaError) as error:
        backup.restore(file, Home(tmp_path / "home"), None)
    assert error.value.code == "bad_backup" and "home/late" in error.value.en


@pytest.mark.parametrize("name", ["../evil", "/evil", "home/../../evil", "home/./x"])
def test_member_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with (tmp_path / "x.backup").open("wb") as target:
        writer = pack.Writer(target)
        writer.add(name, b"x")
        writer.close()
    with pytest.raises(SumikaError, match="has no place in a backup"):
        backup.restore(tmp_path / "x.backup", Home(tmp_path / "a" / "home"), None)
    assert not list(tmp_path.rglob("evil"))


def test_nothing_is_written_over(made: tuple[Path, Settings], tmp_path: Path, postgres_url: str) -> None:
    file, settings = made
    with pytest.raises(SumikaError, match="there already"):
        backup.make(open_store(settings), settings.layout, file)
    with pytest.raises(SumikaError, match="holds something already"):
        backup.restore(file, settings.layout, None)
    other = Settings(home=tmp_path / "other", database_url=postgres_url)
    open_store(other).close()
    with pytest.raises(SumikaError, match="holds something already"):
        backup.restore(file, Home(tmp_path / "home"), postgres_url)


def test_restore_killed_between_database_and_folder_goes_on(
    made: tuple[Path, Settings], tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = made
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        backup.restore(file, Home(tmp_path / "home"), postgres_url)
    assert not (tmp_path / "home").exists()
    assert backup.restore(file, Home(tmp_path / "home"), postgres_url) > 0
    settings = Settings(home=tmp_path / "home", database_url=postgres_url)
    store = open_store(settings)
    assert verify(store, settings.layout).ok
    store.close()


def test_backup_that_is_killed_leaves_no_file_by_its_name(made: tuple[Path, Settings], tmp_path: Path) -> None:
    env = {**os.environ, "SUMIKA_HOME": str(made[1].home)}
    for delay in (0.9, 1.1, 1.3, 1.5, 1.8, 2.2):
        file = tmp_path / f"{delay}.backup"
        process = subprocess.Popen(
            [sys.executable, "-m", "sumika.cli.main", "backup", str(file)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if file.exists():
            backup.restore(file, Home(tmp_path / f"home-{delay}"), None)
    store = open_store(made[1])
    backup.make(store, made[1].layout, tmp_path / "last.backup")
    store.close()
    assert not list(tmp_path.glob(".sumika-backup-*")), "what killed ones left is removed"


def test_restore_that_is_killed_leaves_nothing_behind_the_next(made: tuple[Path, Settings], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from sumika.models.backup import restoring; from sumika.models.home import Home\n"
        "restoring.tables.fill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "restoring.restore(Path(sys.argv[1]), Home(Path(sys.argv[2])), None)"
    )
    home = tmp_path / "home"
    killed = subprocess.run([sys.executable, "-c", code, str(made[0]), str(home)], cwd=ROOT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL and not home.exists()
    assert [path.name.startswith(".home.restoring-") for path in tmp_path.iterdir()] == [True]
    assert backup.restore(made[0], Home(home), None) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_another_is_making_is_left_alone(tmp_path: Path) -> None:
    with scratch(tmp_path, "a") as first, scratch(tmp_path, "a") as second:
        assert first != second and first.is_dir() and second.is_dir()
        assert first.parent.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())
