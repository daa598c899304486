"""A tail that is cut off is found: without a key by what is signed last, and by a witness even where everything here was made anew."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest

from sumika.models import keys, signing
from sumika.models.audit import checkpoints, export, witnessed
from sumika.models.audit.findings import Findings
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.settings import AuditSettings
from sumika.models.store import Store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


@pytest.fixture
def log(home: Home, store: Store, file: Path) -> Iterator[Store]:
    """Six acts, each signed and witnessed."""
    url = store.engine.url.render_as_string(hide_password=False)
    opened = Store(url, after_write=Witness(home, f"file:{file}").look)
    act(opened, 6)
    yield opened
    opened.close()


def act(store: Store, count: int = 1) -> None:
    for _ in range(count):
        with store.write() as connection:
            keys.create(connection, "bot", role="admin")


def cut(home: Home, kept: int) -> None:
    """Whoever can write the database and the file of checkpoints, and holds no key."""
    connection = sqlite.connect(str(home.database), isolation_level=None)
    for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        connection.execute(f"drop trigger {name}")
    connection.execute("delete from keys where id in (select object from audit where seq > ?)", (kept,))
    connection.execute("delete from audit where seq > ?", (kept,))
    connection.execute("update audit_head set seq = ?, hash = (select hash from audit where seq = ?)", (kept, kept))
    connection.close()
    lines = home.checkpoints.read_bytes().splitlines(keepends=True)
    home.checkpoints.write_bytes(b"".join(lines[:kept]))


def test_whole_log_verifies_with_and_without_its_witness(log: Store, home: Home, file: Path) -> None:
    assert verify(log, home).ok
    found = verify(log, home, file)
    assert found.ok and (found.witness, found.witnessed) == (6, 6)


def test_tail_cut_off_without_a_key_is_found_and_never_signed_over(log: Store, home: Home) -> None:
    cut(home, 4)
    assert not verify(log, home).ok
    act(log, 2)
    found = verify(log, home)
    assert not found.ok and found.bad_checkpoint == 5 and found.unsigned == 2


@pytest.mark.parametrize("what", ["gone", "of another key", "an earlier line", "nonsense"])
def test_file_of_the_last_checkpoint_can_not_be_made_to_fit(log: Store, home: Home, tmp_path: Path, what: str) -> None:
    cut(home, 4)
    if what == "gone":
        home.last_checkpoint.unlink()
    elif what == "of another key":
        thief = Home(tmp_path / "thief")
        thief.create()
        shutil.copy(home.checkpoints, thief.checkpoints)
        checkpoints.keep_last(thief)
        shutil.copy(thief.last_checkpoint, home.last_checkpoint)
    else:
        home.last_checkpoint.write_bytes(home.checkpoints.read_bytes().splitlines()[-1] if what == "an earlier line" else b"{}")
    assert not verify(log, home).ok
    act(log)
    assert not verify(log, home).ok


@pytest.mark.parametrize("put", ["an earlier line", "nonsense", "more than a line"])
def test_cut_tail_is_not_signed_over_with_something_else_at_the_file_s_end(log: Store, home: Home, put: str) -> None:
    """Whoever can write the database and the checkpoints has the next act sign what follows the line they put there, and takes out the rest."""
    lines = home.checkpoints.read_bytes().splitlines(keepends=True)
    cut(home, 3)
    kept, more = {"an earlier line": (lines[:3], lines[2]), "nonsense": ([], b"x\n"), "more than a line": ([], b"x" * 4000)}[put]
    home.checkpoints.write_bytes(b"".join(lines) + more)
    act(log, 2)
    assert not verify(log, home).ok
    made = [line for line in home.checkpoints.read_bytes().splitlines(keepends=True) if line not in (*lines, more)]
    home.checkpoints.write_bytes(b"".join([*kept, *made]))
    assert not verify(log, home).ok


def test_lines_that_a_full_disk_kept_from_being_called_the_last_are_signed_after(
    log: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Home) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "keep_last", full)
        act(log, 3)
    assert verify(log, home).ok
    act(log)
    found = verify(log, home)
    assert found.ok and (found.checkpoints, found.unsigned) == (10, 0)


def made_anew(home: Home, log: Store) -> Findings:
    """Everything here, with a key of their own: as root on this machine."""
    cut(home, 3)
    for path in (home.root / "signing.key", home.checkpoints, home.last_checkpoint):
        path.unlink()
    act(log, 5)  # and signed, by the new key
    return verify(log, home)


def test_witness_finds_what_was_made_anew_with_another_key(log: Store, home: Home, file: Path, tmp_path: Path) -> None:
    told = file.read_bytes()
    assert made_anew(home, log).ok, "which nothing on this machine can tell"
    found = verify(log, home, file)
    assert not found.ok and found.bad is not None and (found.bad.seq, found.bad.kind) == (4, "rewritten")
    file.write_bytes(told)  # a copy that was taken away before
    assert not verify(log, home, file).ok
    export.export(log, home, tmp_path / "log.jsonl")
    assert export.verify_file(tmp_path / "log.jsonl").ok and not export.verify_file(tmp_path / "log.jsonl", file).ok


def test_witness_knows_rows_that_are_missing(log: Store, home: Home, file: Path) -> None:
    cut(home, 4)
    found = verify(log, home, file)
    assert found.bad is not None and (found.bad.seq, found.bad.kind) == (5, "missing")


def test_log_server_s_file_is_read_among_the_lines_of_others(log: Store, home: Home, file: Path) -> None:
    lines = [b"Nov 27 23:22:05 sumika sumika-audit[12]: " + line for line in file.read_bytes().splitlines()]
    file.write_bytes(b"\n".join([b"Nov 27 sshd[1]: hello", *lines, b'Nov 27 x: {"at":"forged"}', b"", lines[-1][:-20]]))
    found = verify(log, home, file)
    assert found.ok and found.witness == 6 and witnessed.read(file).ignored == 4


def test_what_is_put_before_its_lines_blinds_no_witness(log: Store, home: Home, file: Path) -> None:
    """Whoever may append to it, and no more; or a write that a full disk cut short."""
    with file.open("ab") as kept:
        kept.write(b'{"at":"')
    act(log)
    assert witnessed.read(file).last == 7


def test_empty_witness_proves_nothing_and_says_so(log: Store, home: Home, file: Path) -> None:
    file.write_bytes(b"")
    assert not verify(log, home, file).ok
    file.unlink()
    with pytest.raises(FileNotFoundError):
        verify(log, home, file)


def test_what_a_witness_missed_is_told_it_later(log: Store, home: Home, file: Path) -> None:
    file.unlink()
    file.mkdir()
    act(log)  # is done all the same
    file.rmdir()
    Witness(home, f"file:{file}").look(log)
    assert witnessed.read(file).last == 7 and verify(log, home, file).ok


def test_syslog_gets_each_line(home: Home, store: Store, tmp_path: Path) -> None:
    local, udp, tcp = (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.create_server(("127.0.0.1", 0)),
    )
    local.bind(str(tmp_path / "s"))
    udp.bind(("127.0.0.1", 0))
    got: list[bytes] = []

    def serve() -> None:
        connection, _ = tcp.accept()
        with connection, connection.makefile("rb") as stream:
            got.append(stream.read())

    server = threading.Thread(target=serve)
    server.start()
    for where in (
        f"syslog:{tmp_path / 's'}",
        f"syslog:udp://127.0.0.1:{udp.getsockname()[1]}",
        f"syslog:tcp://127.0.0.1:{tcp.getsockname()[1]}",
    ):
        AuditSettings(witness=where)
        act(store)
        Witness(home, where).look(store)
    server.join(timeout=30)
    for other in (local, udp):
        other.settimeout(30)
        got.append(other.recv(4096))
        other.close()
    tcp.close()
    length, _, message = got[0].partition(b" ")
    assert int(length) == len(message) and message.startswith(b"<85>1 ") and b" sumika-audit " in message
    (tmp_path / "kept").write_bytes(b"\n".join(got))
    assert witnessed.read(tmp_path / "kept").lines == 3 and verify(store, home, tmp_path / "kept").ok


@pytest.mark.parametrize("where", ["/var/log/x", "file:x", "syslog:http://h", "syslog:udp://", "https://h/x", "syslog:udp://h:x"])
def test_witness_that_is_none_is_refused_at_the_settings(where: str) -> None:
    with pytest.raises(ValueError):
        AuditSettings(witness=where)


# Trust by purpose


def test_key_that_is_trusted_for_archives_signs_no_log(log: Store, home: Home, tmp_path: Path) -> None:
    """M2: they rewrite the log and sign it with their own key."""
    thief = Home(tmp_path / "thief")
    thief.create()
    signing.trust(home, signing.line(signing.show(thief)), "maker", "archives")
    signing.trust(home, signing.line(signing.show(thief)), "maker", "bundles")
    lines = home.checkpoints.read_bytes().splitlines()
    for line in lines[:3]:
        told = checkpoints.opened(line)
        assert told is not None
        checkpoints.add(thief, told.kind, told.seq, told.hash, told.count, told.at)
    cut(home, 3)
    for name in ("audit.checkpoints", "audit.last"):
        shutil.copy(thief.root / name, home.root / name)
    assert not verify(log, home).ok
    signing.trust(home, signing.line(signing.show(thief)), "maker", "log")
    assert verify(log, home).ok, "which is what trusting a key for the log means"


def test_keys_from_before_purposes_are_trusted_for_archives_alone(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.create()
    (home.root / "trusted").mkdir()
    (home.root / "trusted" / "honsha.pub").write_text(signing.line(signing.show(other)))
    signing.sort_trust(home)
    assert [list(signing.trusted_keys(home, purpose)) for purpose in signing.TRUSTS] == [["honsha"], [], []]
    with pytest.raises(SumikaError):
        signing.trust(home, signing.line(signing.show(home)), "honsha", "archives")
