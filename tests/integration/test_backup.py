"""A backup taken while requests run, and a bare machine that goes on from it: on SQLite and PostgreSQL, and from one to the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import select

from sumika.models import aliases, backup, importing, keys, schema, signing
from sumika.models.audit import listing, pruning
from sumika.models.audit.listing import Filter
from sumika.models.audit.verify import verify
from sumika.models.backup import age, making, pack
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
        told = commanded(old.env | {"SUMIKA_BACKUP__RECIPIENTS": f'["{age.keygen(tmp_path / "identity")}"]'}, "backup", str(file))
        assert told.returncode == 0, told.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    finish(old)

    (tmp_path / "new").mkdir()
    settings = Settings(home=tmp_path / "new" / "home")
    env = {name: value for name, value in old.env.items() if name != "SUMIKA_DATABASE_URL"} | {"SUMIKA_HOME": str(settings.home)}
    words = ("restore", str(file), "--key", signer(old.settings.layout), "--identity", str(tmp_path / "identity"))
    told = commanded(env | (url if target == "postgres" else {}), *words)
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


def signer(home: Home) -> str:
    return signing.fingerprint(signing.show(home))


def back(file: Path, home: Home, made: tuple[Path, Settings], url: str | None = None) -> backup.Restored:
    return backup.restore(file, home, url, key=signer(made[1].layout))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A backup of a home with a base and an adapter."""
    folder = tmp_path_factory.mktemp("backup")
    settings = Settings(home=folder / "home")
    store = open_store(settings)
    base = importing.import_base(store, settings.layout, "base", write_base(folder / "base"))
    importing.import_adapter(store, settings.layout, "faq", write_adapter(folder / "faq"), base=base.ref, max_lora_rank=16)
    backup.make(store, settings.layout, folder / "a.backup", recipients=[])
    store.close()
    return folder / "a.backup", settings


def test_changed_byte_anywhere_is_named_and_nothing_is_there_afterwards(made: tuple[Path, Settings], tmp_path: Path) -> None:
    data, file = made[0].read_bytes(), tmp_path / "b.backup"
    with tarfile.open(made[0]) as tar:
        places = {
            info.name: info.offset_data + info.size // 2
            for info in tar
            if info.size and info.name not in (pack.MANIFEST, pack.SIGNATURE)
        }
    assert len(places) > 10
    for name, place in places.items():
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(SumikaError) as error:
            back(file, Home(tmp_path / "home"), made)
        assert error.value.code == "bad_backup" and name in error.value.en
    end = max(places.values())  # the manifest comes behind it
    for length in range(0, end, end // 20):
        file.write_bytes(data[:length])
        with pytest.raises(SumikaError):
            back(file, Home(tmp_path / "home"), made)
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
        backup.make(store, made[1].layout, tmp_path / "a.backup", recipients=[])
    store.close()
    assert error.value.code == "artifact_missing" and not list(tmp_path.iterdir())


def piped(env: dict[str, str], *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sumika.cli.main", *words]
    return subprocess.run(command, env=env, cwd=ROOT, input=data, capture_output=True, timeout=120, check=False)


def test_backup_goes_through_pipes(made: tuple[Path, Settings], tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "there").mkdir()
    identity = tmp_path / "keys" / "identity"
    env = {**os.environ, "SUMIKA_LANG": "en", "SUMIKA_BACKUP__RECIPIENTS": f'["{age.keygen(identity)}"]'}
    sent = piped(env | {"SUMIKA_HOME": str(made[1].home)}, "backup", "-")
    assert sent.returncode == 0 and not sent.stderr, sent.stderr
    old_key, new_key = (home / "admin.key" for home in (made[1].home, tmp_path / "there" / "home"))
    assert sent.stdout.startswith(age.MAGIC) and old_key.read_bytes().strip() not in sent.stdout
    new = env | {"SUMIKA_HOME": str(tmp_path / "there" / "home")}
    words = ("restore", "-", "--key", signer(made[1].layout), "--identity", str(identity))
    for cut in (0, 10, 1000, len(sent.stdout) // 2, len(sent.stdout) - 1):
        assert piped(new, *words, data=sent.stdout[:cut]).returncode == 1 and not list((tmp_path / "there").iterdir())
    assert piped(new, *words, data=sent.stdout).returncode == 0
    assert old_key.read_bytes() == new_key.read_bytes()
    assert piped(new, "doctor", "--deep", "--json").returncode == 0


def test_pipe_that_ends_early_is_told(made: tuple[Path, Settings]) -> None:
    env = {**os.environ, "SUMIKA_LANG": "en", "SUMIKA_HOME": str(made[1].home)}
    command = f"set -o pipefail; {sys.executable} -m sumika.cli.main backup --plaintext - | head -c 100 >/dev/null"
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
        back(file, Home(tmp_path / "home"), made)
    assert error.value.code == "bad_backup" and "home/late" in error.value.en


@pytest.mark.parametrize("name", ["../evil", "/evil", "home/../../evil", "home/./x"])
def test_member_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with (tmp_path / "x.backup").open("wb") as target:
        writer = pack.Writer(target, lambda data: data)
        writer.add(name, b"x")
        writer.close()
    with pytest.raises(SumikaError, match="has no place in a backup"):
        backup.restore(tmp_path / "x.backup", Home(tmp_path / "a" / "home"), None, key=None)
    assert not list(tmp_path.rglob("evil"))


def test_nothing_is_written_over(made: tuple[Path, Settings], tmp_path: Path, postgres_url: str) -> None:
    file, settings = made
    with pytest.raises(SumikaError, match="there already"):
        backup.make(open_store(settings), settings.layout, file, recipients=[])
    with pytest.raises(SumikaError, match="holds something already"):
        back(file, settings.layout, made)
    other = Settings(home=tmp_path / "other", database_url=postgres_url)
    open_store(other).close()
    with pytest.raises(SumikaError, match="holds something already"):
        back(file, Home(tmp_path / "home"), made, postgres_url)


def test_restore_killed_between_database_and_folder_goes_on(
    made: tuple[Path, Settings], tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = made
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        back(file, Home(tmp_path / "home"), made, postgres_url)
    assert not (tmp_path / "home").exists()
    assert back(file, Home(tmp_path / "home"), made, postgres_url).rows > 0
    settings = Settings(home=tmp_path / "home", database_url=postgres_url)
    store = open_store(settings)
    assert verify(store, settings.layout).ok
    store.close()


def test_backup_that_is_killed_leaves_no_file_by_its_name(made: tuple[Path, Settings], tmp_path: Path) -> None:
    env = {**os.environ, "SUMIKA_HOME": str(made[1].home)}
    for delay in (0.9, 1.1, 1.3, 1.5, 1.8, 2.2):
        file = tmp_path / f"{delay}.backup"
        process = subprocess.Popen(
            [sys.executable, "-m", "sumika.cli.main", "backup", "--plaintext", str(file)],
            env=env,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if file.exists():
            back(file, Home(tmp_path / f"home-{delay}"), made)
    store = open_store(made[1])
    backup.make(store, made[1].layout, tmp_path / "last.backup", recipients=[])
    store.close()
    assert not list(tmp_path.glob(".sumika-backup-*")), "what killed ones left is removed"


def test_restore_that_is_killed_leaves_nothing_behind_the_next(made: tuple[Path, Settings], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from sumika.models.backup import restoring; from sumika.models.home import Home\n"
        "restoring.tables.fill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "restoring.restore(Path(sys.argv[1]), Home(Path(sys.argv[2])), None, key=sys.argv[3])"
    )
    home = tmp_path / "home"
    killed = subprocess.run(
        [sys.executable, "-c", code, str(made[0]), str(home), signer(made[1].layout)], cwd=ROOT, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL and not home.exists()
    assert [path.name.startswith(".home.restoring-") for path in tmp_path.iterdir()] == [True]
    assert back(made[0], Home(home), made).rows > 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_another_is_making_is_left_alone(tmp_path: Path) -> None:
    with scratch(tmp_path, "a") as first, scratch(tmp_path, "a") as second:
        assert first != second and first.is_dir() and second.is_dir()
        assert first.parent.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


def test_restore_that_is_killed_right_after_it_is_told_all_the_same(made: tuple[Path, Settings], tmp_path: Path) -> None:
    """Whoever would hide that they brought something back kills it once the home is there."""
    env = {**os.environ, "SUMIKA_HOME": str(tmp_path / "home")}
    code = (
        "import os, signal, sys; from sumika.cli import backup, main\n"
        "backup.open_store = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main.main()"
    )
    words = ("restore", str(made[0]), "--key", signer(made[1].layout))
    killed = subprocess.run([sys.executable, "-c", code, *words], env=env, cwd=ROOT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "home").exists()
    settings = Settings(home=tmp_path / "home")
    store = open_store(settings)
    with store.read() as connection:
        row = listing.find(connection, Filter(action="backup.restore"))[0]
    assert row.actor.startswith("cli:") and row.object == "a.backup" and row.details["believed"] is True
    assert row.details["key"] == signer(made[1].layout) and row.details["rows"] > 0
    assert verify(store, settings.layout).ok
    store.close()


def test_log_that_is_pruned_while_a_backup_begins_is_told(
    made: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Settings(home=tmp_path / "home")
    back(made[0], there.layout, made)
    store = open_store(there)
    with store.write() as connection:
        keys.create(connection, "bot")
    files = making._files

    def pruned_then(*args: Any) -> Iterator[Path]:
        yield from files(*args)
        monkeypatch.undo()
        pruning.prune(store, there.layout, "2100-01-01T00:00:00.000000Z")

    monkeypatch.setattr(making, "_files", pruned_then)
    with pytest.raises(SumikaError, match="pruned"):
        backup.make(store, there.layout, tmp_path / "b.backup", recipients=[])
    assert not (tmp_path / "b.backup").exists()
    backup.make(store, there.layout, tmp_path / "b.backup", recipients=[])
    store.close()


# Who made it, and who may read it


def test_nothing_in_clear_lies_where_backups_lie(
    made: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while it is made, by a name that is gone: a server of files keeps those."""
    folders, temporary = [], tempfile.TemporaryFile

    def noted(dir: Path) -> IO[bytes]:
        folders.append(dir)
        return temporary(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    store = open_store(made[1])
    backup.make(store, made[1].layout, tmp_path / "a", recipients=[age.keygen(tmp_path / "identity")])
    store.close()
    assert folders and set(folders) == {made[1].layout.root}


def test_plaintext_of_a_home_that_came_from_one_comes_back_too(made: tuple[Path, Settings], tmp_path: Path) -> None:
    file, settings = made
    for name in ("first", "second", "third"):
        there = Settings(home=tmp_path / name / "home")
        backup.restore(file, there.layout, None, key=signer(settings.layout))
        store = open_store(there)
        with store.write() as connection:
            keys.create(connection, "bot")
        assert verify(store, there.layout).ok
        file, settings = tmp_path / f"{name}.backup", there
        backup.make(store, there.layout, file, recipients=[])
        store.close()


def told(code: str, *words: str, env: dict[str, str]) -> str:
    """What a refused command says."""
    ended = commanded(env | {"SUMIKA_LANG": "en"}, *words)
    assert ended.returncode != 0 and code in ended.stderr, ended.stderr
    return ended.stderr


def test_backup_for_nobody_is_refused(made: tuple[Path, Settings], tmp_path: Path) -> None:
    env = {**os.environ, "SUMIKA_HOME": str(made[1].home)}
    told("nobody is named to encrypt it to", "backup", str(tmp_path / "a"), env=env)
    told("is no public key of age", "backup", str(tmp_path / "a"), "--recipient", "age1nobody", env=env)
    assert not list(tmp_path.iterdir())


def test_plaintext_holds_no_private_key_and_the_log_goes_on_from_it(made: tuple[Path, Settings], tmp_path: Path) -> None:
    file, settings = made
    with tarfile.open(file) as tar:
        names = tar.getnames()
    assert not [name for name in names if name.endswith(".key") or name == "settings.yaml"] and "home/audit.last" not in names
    secrets = [path.read_bytes().strip() for path in settings.home.glob("*.key")]
    assert len(secrets) >= 2 and not any(secret in file.read_bytes() for secret in secrets)
    home = Home(tmp_path / "home")
    assert not back(file, home, made).with_secrets
    again = Settings(home=home.root)
    store = open_store(again)
    found = verify(store, home)
    assert found.ok and found.unsigned == 1 and found.signers == (signer(settings.layout),)
    with store.write() as connection:
        keys.create(connection, "bot")
    found = verify(store, home)
    store.close()
    assert found.ok and set(found.signers) == {signer(settings.layout), signer(home)}


def test_plaintext_holds_nothing_of_the_home_that_may_be_a_secret(made: tuple[Path, Settings], tmp_path: Path) -> None:
    home = made[1].layout
    names = ("client.secret", "tls.pem", "pgpass")
    for name in names:
        (home.root / name).write_text("hunter2")
    store = open_store(made[1])
    backup.make(store, home, tmp_path / "a", recipients=[])
    store.close()
    for name in names:
        (home.root / name).unlink()
    assert b"hunter2" not in (tmp_path / "a").read_bytes()


def test_changed_manifest_is_refused_whoever_computed_it_anew(made: tuple[Path, Settings], tmp_path: Path) -> None:
    """M4: an administrator's key put into the table, and the manifest made to fit it."""
    forged, home = tmp_path / "forged.backup", Home(tmp_path / "there" / "home")
    for sign in (lambda _: b"", lambda data: signing.sign(Home(tmp_path), data, signing.BACKUP)):
        with tarfile.open(made[0]) as tar, forged.open("wb") as target:
            writer = pack.Writer(target, sign)
            for info in tar:
                data = tar.extractfile(info).read()  # type: ignore[union-attr]
                if info.name == "tables/keys.jsonl":
                    data += data.replace(b'"id": "', b'"id": "0')
                if info.name not in (pack.MANIFEST, pack.SIGNATURE):
                    writer.add(info.name, data)
            writer.close()
        with pytest.raises(SumikaError) as error:
            back(forged, home, made)
        assert error.value.code in ("bad_backup", "untrusted_key") and not home.root.exists()
    with pytest.raises(SumikaError) as error:
        backup.restore(made[0], home, None, key=None)
    assert error.value.code == "untrusted_key" and signer(made[1].layout) in error.value.en


def test_unsigned_one_of_an_older_release_is_taken_on_request_alone(made: tuple[Path, Settings], tmp_path: Path) -> None:
    old, home = tmp_path / "old.backup", Home(tmp_path / "there" / "home")
    with tarfile.open(made[0]) as tar, tarfile.open(old, "w", format=tarfile.PAX_FORMAT) as target:
        for info in tar:
            if info.name != pack.SIGNATURE:
                target.addfile(info, tar.extractfile(info))
    with pytest.raises(SumikaError) as error:
        back(old, home, made)
    assert error.value.code == "unsigned_backup" and not home.root.exists()
    assert backup.restore(old, home, None, key=None, unsigned=True).key is None


def test_encrypted_one_opens_for_its_recipients_alone(made: tuple[Path, Settings], tmp_path: Path) -> None:
    env = {**os.environ, "SUMIKA_HOME": str(made[1].home)}
    ours, other, third = (age.keygen(tmp_path / name) for name in ("ours", "other", "third"))
    assert ours != third
    file = tmp_path / "a.backup"
    assert commanded(env, "backup", str(file), "--recipient", ours, "--recipient", other).returncode == 0
    data = file.read_bytes()
    assert b"tables/" not in data and b"sk-sumika-" not in data
    there = env | {"SUMIKA_HOME": str(tmp_path / "there" / "home")}
    words = ("restore", str(file), "--key", signer(made[1].layout))
    told("is encrypted", *words, env=there)
    told("encrypted to another key", *words, "--identity", str(tmp_path / "third"), env=there)
    told("holds no identity", *words, "--identity", str(made[0]), env=there)
    for place in range(300, len(data), len(data) // 15):
        (tmp_path / "b.backup").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(SumikaError, match="cut off, or changed"):
            backup.restore(tmp_path / "b.backup", Home(tmp_path / "x" / "home"), None, key=None, identity=tmp_path / "ours")
    for identity in ("ours", "other"):
        there = env | {"SUMIKA_HOME": str(tmp_path / identity[::-1] / "home")}
        assert commanded(there, *words, "--identity", str(tmp_path / identity)).returncode == 0


def test_keygen_writes_over_nothing(tmp_path: Path) -> None:
    made = commanded(dict(os.environ), "backup", "keygen", str(tmp_path / "k"))
    public = made.stdout.strip()
    assert made.returncode == 0 and public.startswith("age1") and public in (tmp_path / "k").read_text()
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    told("never replaced", "backup", "keygen", str(tmp_path / "k"), env=dict(os.environ))
