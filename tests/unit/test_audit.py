"""The audit log: one row for each act in the act's own transaction, witnesses outside, pruning and exports that verify."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from sumika.models import audit, clock, keys, schema, signing
from sumika.models.actor import Actor
from sumika.models.audit import Action, canonical, chain, export, listing, pruning, sealing
from sumika.models.audit.chain import AuditRow, Entry
from sumika.models.audit.listing import Filter
from sumika.models.audit.sealing import Content
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store
from tests.conftest import ROOT

ME = Actor("cli:me@here", "operator")


@pytest.fixture
def log(home: Home, store: Store) -> Store:
    """A store that is witnessed, on the same database as `store`."""
    return Store(store.engine.url.render_as_string(hide_password=False), by=ME, after_write=Witness(home).look)


def tell(store: Store, count: int = 1, at: str = "") -> None:
    for number in range(count):
        with store.write() as connection:
            entry = Entry(Action.ALIAS_DEPLOY, f"faq-{number}", details={"number": number}, actor=ME, at=at)
            chain.append_many(connection, [entry])


def rows(store: Store) -> list[AuditRow]:
    """Oldest first."""
    with store.read() as connection:
        return listing.find(connection, Filter(), 1000)[::-1]


# Canonical JSON


def test_canonical_spelling_is_that_of_rfc_8785() -> None:
    """The examples of RFC 8785 that hold no floats (3.2.3's order, 3.2.2.2's strings)."""
    assert canonical.dump({"b": 1, "a": [True, None, -7], "": "x"}) == b'{"":"x","a":[true,null,-7],"b":1}'
    assert canonical.dump("\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/") == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_canonical_spelling_reads_back_and_is_one(value: Any) -> None:
    spelled = canonical.dump(value)
    assert canonical.load(spelled) == value == json.loads(spelled)
    assert canonical.dump(json.loads(json.dumps(value, indent=2))) == spelled


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, {"é": 1}, {1: 2}, b"x", {"a": {1, 2}}, "\ud800", {"a": [0.5]}])
def test_what_has_no_one_spelling_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical.dump(value)


@pytest.mark.parametrize(
    "spelled", ['{"a": 1}', '{"b":1,"a":2}', '{"a":1,"a":1}', "1.0", "01", '"\\u0041"', "[" * 9999, "NaN", ""]
)
def test_other_spellings_are_refused(spelled: str) -> None:
    with pytest.raises(ValueError):
        canonical.load(spelled)


# Appending


def test_act_and_row_stand_or_fall_together(log: Store) -> None:
    with pytest.raises(RuntimeError), log.write() as connection:
        keys.create(connection, "bot")
        raise RuntimeError
    assert rows(log) == []
    with log.write() as connection:
        _, key = keys.create(connection, "bot")
    (row,) = rows(log)
    assert (row.actor, row.role, row.action, row.object, row.outcome) == (ME.name, ME.role, "key.create", key.id, "done")


def test_act_whose_row_cant_be_written_is_refused(log: Store) -> None:
    tell(log)
    with log.engine.connect() as connection:  # somebody put a row where the next one belongs
        connection.exec_driver_sql(
            "insert into audit select 2, at, actor, role, action, object, outcome, reason, details, prev, hash from audit"
        )
        connection.commit()
    with pytest.raises(SumikaError) as told, log.write() as connection:
        keys.create(connection, "bot")
    assert told.value.code == "audit_broken"
    with log.read() as connection:
        assert keys.list_all(connection) == []


def test_writers_in_several_processes_make_one_chain(log: Store, home: Home) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from sumika.models import audit; from sumika.models.audit.witness import Witness\n"
        "from sumika.models.home import Home; from sumika.models.store import Store\n"
        "home = Home(Path(sys.argv[1])); store = Store(f'sqlite:///{home.database}', after_write=Witness(home).look)\n"
        "for _ in range(40):\n    with store.write() as c: audit.append(c, audit.Action.BASE_SCALE, sys.argv[2])\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(home.root), str(n)], cwd=ROOT) for n in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    found = verify(log, home)
    assert found.ok and found.rows == 120 and found.unsigned == 0
    assert {n: sum(row.object == n for row in rows(log)) for n in "012"} == {"0": 40, "1": 40, "2": 40}


@pytest.mark.parametrize("statement", ["update audit set actor = 'x'", "delete from audit", "update audit_contents set sealed = ''", "delete from audit_contents"])  # fmt: skip
def test_database_itself_refuses_to_change_rows(log: Store, statement: str) -> None:
    tell(log)
    with log.write() as connection:
        connection.execute(insert(schema.audit_contents).values(seq=1, sealed=b"x"))
    with pytest.raises(IntegrityError, match="append-only"), log.write() as connection:
        connection.execute(text(statement))


def test_what_people_type_stays_one_row_of_plain_text(log: Store) -> None:
    with log.write() as connection:
        audit.append(connection, Action.ALIAS_DEPLOY, "a\nb\x1b[31m\0\ud800", reason="r" * 5000, actor="x" * 500)
    (row,) = rows(log)
    assert row.object == "a\\nb\\x1b[31m\\x00\\ud800" and len(row.reason) == 1000 and len(row.actor) == 128


def test_refused_act_is_told_and_what_it_told_is_not(log: Store) -> None:
    with pytest.raises(SumikaError), audit.refusals(log, Action.KEY_REVOKE, "k1"), log.write() as connection:
        audit.append(connection, Action.KEY_REVOKE, "k1")
        keys.revoke(connection, "k1")
    (row,) = rows(log)
    assert (row.action, row.outcome, row.reason) == ("key.revoke", "refused", "not_found")


@pytest.mark.parametrize(("error", "outcome", "reason"), [(None, "done", ""), (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
                                                         (SumikaError("no", "no", "no"), "refused", "no")])  # fmt: skip
def test_long_act_has_a_row_at_each_end(log: Store, error: BaseException | None, outcome: str, reason: str) -> None:
    try:
        with audit.told(log, Action.FINETUNE_RUN, "job", base="b@1") as told:
            told["rows"] = 3
            if error:
                raise error
    except (KeyboardInterrupt, SumikaError):
        pass
    begun, ended = rows(log)
    assert (begun.outcome, begun.details) == ("asked", {"base": "b@1"})
    assert (ended.outcome, ended.reason, ended.details) == (outcome, reason, {"asked": 1, "rows": 3})


def test_long_act_that_cant_be_told_does_not_begin(home: Home, log: Store) -> None:
    holder = sqlite.connect(str(home.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with log.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=100")
    with pytest.raises(SumikaError, match="did not answer"), audit.told(log, Action.MODEL_EXPORT, "m@1"):
        pytest.fail("it began")
    holder.close()


# Witness


def test_checkpoints_lie_outside_and_are_nobody_elses(log: Store, home: Home) -> None:
    tell(log, 2)
    assert home.checkpoints.stat().st_mode & 0o777 == 0o600
    last = json.loads(home.checkpoints.read_bytes().splitlines()[-1])
    assert (last["seq"], last["hash"], last["count"]) == (2, rows(log)[-1].hash, 2)
    key = signing.signer(
        canonical.dump({k: v for k, v in last.items() if k != "signature"}),
        base64.b64decode(last["signature"]),
        signing.CHECKPOINT,
    )
    assert key is not None and signing.fingerprint(key) == signing.fingerprint(signing.show(home))
    assert signing.signer(canonical.dump(last), base64.b64decode(last["signature"]), signing.ARCHIVE) is None


def test_line_that_a_crash_cut_short_is_mended(log: Store, home: Home) -> None:
    tell(log, 2)
    whole = home.checkpoints.read_bytes()
    home.checkpoints.write_bytes(whole + whole[:100])
    assert verify(log, home).ok
    tell(log)
    assert verify(log, home).checkpoints == 3 and home.checkpoints.read_bytes().startswith(whole)


@pytest.mark.parametrize("harm", ["cut out", "swapped", "edited", "foreign"])
def test_checkpoints_that_were_changed_are_named(log: Store, home: Home, harm: str) -> None:
    tell(log, 4)
    lines = home.checkpoints.read_bytes().splitlines(keepends=True)
    lines[1:3] = {
        "cut out": [lines[2]],
        "swapped": [lines[2], lines[1]],
        "edited": [lines[1].replace(b'"count":2', b'"count":3'), lines[2]],
        "foreign": lines[1:3],
    }[harm]
    home.checkpoints.write_bytes(b"".join(lines))
    if harm == "foreign":  # all was signed by a key that is not ours
        (home.root / "signing.key").unlink()
    found = verify(log, home)
    assert not found.ok and found.bad_checkpoint == (1 if harm == "foreign" else 2)


def test_database_that_was_set_back_is_found_and_not_signed_again(
    log: Store, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    tell(log, 3)
    old = sqlite.connect(str(home.database))
    old.execute("vacuum into ?", (str(home.root / "old.db"),))
    old.close()
    tell(log, 2)
    log.close()
    for file in home.root.glob("sumika.db*"):
        file.unlink()
    (home.root / "old.db").rename(home.database)
    found = verify(log, home)
    assert found.bad is not None and (found.bad.seq, found.bad.kind) == (4, "missing")
    lines = home.checkpoints.read_bytes()
    tell(log, 4)
    assert home.checkpoints.read_bytes() == lines and "no longer holds row 5" in caplog.text
    found = verify(log, home)
    assert found.bad is not None and (found.bad.seq, found.bad.to, found.bad.kind) == (4, 4, "rewritten")


def test_checkpoint_that_cant_be_written_is_caught_up(log: Store, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.checkpoints.mkdir()  # as good as a full disk, and works for root
    tell(log, 2)
    assert "could not be written" in caplog.text and len(rows(log)) == 2
    home.checkpoints.rmdir()
    tell(log)
    found = verify(log, home)
    assert found.ok and (found.checkpoints, found.unsigned) == (1, 0)


# Pruning


def test_pruning_proves_what_it_took(log: Store, home: Home) -> None:
    tell(log, 5, at="2020-01-01T00:00:00.000000Z")
    tell(log, 3)
    assert pruning.prune(log, home, "2021-01-01T00:00:00.000000Z") == 5
    found = verify(log, home)
    assert found.ok and (found.first, found.last, found.rows) == (6, 9, 4)
    (pruned,) = found.pruned
    assert (pruned.last, pruned.rows, pruned.actor) == (5, 5, ME.name)
    assert pruning.prune(log, home, "2021-01-01T00:00:00.000000Z") == 0
    assert pruning.prune(log, home, clock.now()) == 4
    assert verify(log, home).ok


@pytest.mark.parametrize("statement", [
    "delete from audit where seq = 6", "update audit_head set floor = 6", "update audit_head set floor = 0",
    "insert into audit select 3, at, actor, role, action, object, outcome, reason, details, prev, hash from audit where seq = 6",
    "update audit set details = replace(details, '5', '4') where action = 'audit.prune'", "delete from audit",
])  # fmt: skip
def test_deleting_more_than_was_pruned_is_found(log: Store, home: Home, statement: str) -> None:
    tell(log, 5, at="2020-01-01T00:00:00.000000Z")
    tell(log, 3)
    pruning.prune(log, home, "2021-01-01T00:00:00.000000Z")
    with log.engine.connect() as connection:
        for (name,) in connection.exec_driver_sql("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.exec_driver_sql(f"drop trigger {name}")
        connection.exec_driver_sql(statement)
        if "floor = 6" in statement:
            connection.exec_driver_sql("delete from audit where seq <= 6")
        connection.commit()
    found = verify(log, home)
    assert found.ok == (statement == "update audit_head set floor = 0")  # a mark that no row depends on
    assert found.ok or (found.bad is not None and found.bad.seq in (3, 6, 9))


def test_log_that_does_not_verify_is_not_pruned(log: Store, home: Home) -> None:
    tell(log, 3, at="2020-01-01T00:00:00.000000Z")
    with log.engine.connect() as connection:
        connection.exec_driver_sql("drop trigger audit_no_update")
        connection.exec_driver_sql("update audit set actor = 'x' where seq = 2")
        connection.commit()
    with pytest.raises(SumikaError, match="Row 2"):
        pruning.prune(log, home, clock.now())
    assert len(rows(log)) == 3


def test_crash_between_floor_and_commit_loses_nothing(log: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(log, 3, at="2020-01-01T00:00:00.000000Z")
    real = pruning.checkpoints.add

    def die(*given: Any) -> None:
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning.checkpoints, "add", die)
    with pytest.raises(KeyboardInterrupt):
        pruning.prune(log, home, "2021-01-01T00:00:00.000000Z")
    monkeypatch.undo()
    assert verify(log, home).ok and len(rows(log)) == 3
    tell(log)
    assert verify(log, home).ok
    assert pruning.prune(log, home, "2021-01-01T00:00:00.000000Z") == 3 and verify(log, home).ok


# Contents


def sealed_row(store: Store, key: Path, request: str, content: Content, at: str = "") -> int:
    blob = sealing.seal(sealing.public_key(sealing.public_of(key)), request, content)
    with store.write() as connection:
        details = {"request": request, "sealed": sealing.hashlib.sha256(blob).hexdigest()}
        seq = chain.append_many(connection, [Entry(Action.INFERENCE_CHAT, "faq", details=details, at=at)])
        connection.execute(insert(schema.audit_contents).values(seq=seq, sealed=blob))
    return seq


def test_content_opens_with_its_key_for_its_request_alone(tmp_path: Path) -> None:
    for name in ("one", "other"):
        sealing.keygen(tmp_path / name)
    content = Content('{"messages": "給与はいつ"}', "毎月25日です。" * 500)
    blob = sealing.seal(sealing.public_key(tmp_path / "one.pub"), "req-1", content)
    assert "給与".encode() not in blob and len(blob) < 1000
    key = sealing.private_key(tmp_path / "one")
    assert sealing.unseal(key, "req-1", blob) == content
    for wrong, request, changed in (
        (sealing.private_key(tmp_path / "other"), "req-1", blob),
        (key, "req-2", blob),
        (key, "req-1", blob[:-1] + bytes([blob[-1] ^ 1])),
        (key, "req-1", b""),
    ):
        with pytest.raises(SumikaError) as told:
            sealing.unseal(wrong, request, changed)
        assert told.value.code == "wrong_key"
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_keys_are_never_replaced_and_mistaken_ones_are_told(tmp_path: Path) -> None:
    sealing.keygen(tmp_path / "k")
    with pytest.raises(SumikaError, match="already there"):
        sealing.keygen(tmp_path / "k")
    (tmp_path / "junk").write_text("junk")
    for load, file in (
        (sealing.public_key, "k"),
        (sealing.private_key, "k.pub"),
        (sealing.public_key, "junk"),
        (sealing.private_key, "none"),
    ):
        with pytest.raises(SumikaError) as told:
            load(tmp_path / file)
        assert told.value.code == "bad_key"


def test_content_that_was_changed_or_taken_away_is_found(log: Store, home: Home, tmp_path: Path) -> None:
    sealing.keygen(tmp_path / "k")
    for number in range(3):
        sealed_row(log, tmp_path / "k", f"req-{number}", Content("q", "a"))
    assert verify(log, home).contents == 3
    for statement in ("update audit_contents set sealed = (select sealed from audit_contents where seq = 3) where seq = 2",
                      "delete from audit_contents where seq = 2"):  # fmt: skip
        with log.engine.connect() as connection:
            connection.exec_driver_sql("drop trigger if exists audit_contents_no_update")
            connection.exec_driver_sql("drop trigger if exists audit_contents_no_delete")
            connection.exec_driver_sql(statement)
            connection.commit()
        found = verify(log, home)
        assert found.bad is not None and (found.bad.seq, found.bad.kind) == (2, "content")


def test_contents_may_be_pruned_before_their_rows(log: Store, home: Home, tmp_path: Path) -> None:
    sealing.keygen(tmp_path / "k")
    sealed_row(log, tmp_path / "k", "req-1", Content("q", "a"), at="2020-01-01T00:00:00.000000Z")
    kept = sealed_row(log, tmp_path / "k", "req-2", Content("q", "a"))
    assert pruning.prune(log, home, "2021-01-01T00:00:00.000000Z", contents_only=True) == 1
    found = verify(log, home)
    assert found.ok and (found.rows, found.contents) == (3, 1) and found.pruned[0].contents_only
    with log.read() as connection:
        assert listing.sealed(connection, kept)[0].seq == kept
        with pytest.raises(SumikaError) as told:
            listing.sealed(connection, 1)
    assert told.value.code == "not_found"
    with log.write(quiet=True) as connection:
        connection.exec_driver_sql("update audit_head set content_floor = 2")
        connection.exec_driver_sql("delete from audit_contents where seq = 2")
    found = verify(log, home)
    assert found.bad is not None and found.bad.kind == "content"


# Exports


def test_export_verifies_alone(log: Store, home: Home, tmp_path: Path) -> None:
    sealing.keygen(tmp_path / "k")
    tell(log, 3, at="2020-01-01T00:00:00.000000Z")
    sealed_row(log, tmp_path / "k", "req-1", Content("q", "a"))
    tell(log, 2)
    pruning.prune(log, home, "2021-01-01T00:00:00.000000Z")
    assert export.export(log, home, tmp_path / "log.jsonl") == 4
    assert export.verify_file(tmp_path / "log.jsonl") == verify(log, home)
    row, blob = export.sealed_in(tmp_path / "log.jsonl", 4)
    assert sealing.unseal(sealing.private_key(tmp_path / "k"), row.details["request"], blob) == Content("q", "a")
    with pytest.raises(SumikaError, match="no row with sealed content"):
        export.sealed_in(tmp_path / "log.jsonl", 5)
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SumikaError, match="already there"):
        export.export(log, home, tmp_path / "log.jsonl")


@pytest.mark.parametrize("line", range(1, 6))
@pytest.mark.parametrize("harm", ["edit", "delete", "junk", "cut"])
def test_export_that_was_changed_is_found(log: Store, home: Home, tmp_path: Path, line: int, harm: str) -> None:
    tell(log, 5)
    export.export(log, home, tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    kept = {
        "edit": [*lines[:line], lines[line].replace(b"cli:me", b"cli:we"), *lines[line + 1 :]],
        "delete": [*lines[:line], *lines[line + 1 :]],
        "junk": [*lines[:line], b'{"row":[1,{"a":2}]}\n', *lines[line + 1 :]],
        "cut": [*lines[:line], *lines[6:]],
    }[harm]
    (tmp_path / "changed").write_bytes(b"".join(kept))
    found = export.verify_file(tmp_path / "changed")
    assert found.bad is not None and found.bad.seq == line


@pytest.mark.parametrize("told", ["", "{}", "[]", '{"format":"sumika-audit-1","head":{"seq":"1"}}', "\x00" * 9000])
def test_file_that_is_no_export_is_told(tmp_path: Path, told: str) -> None:
    (tmp_path / "x").write_text(told)
    with pytest.raises(SumikaError) as error:
        export.verify_file(tmp_path / "x")
    assert error.value.code == "bad_export"


def test_export_while_rows_are_appended_verifies(log: Store, home: Home, tmp_path: Path) -> None:
    tell(log, 1500)
    seen = export._lines

    def appending(*given: Any) -> Any:
        for number, line in enumerate(seen(*given)):
            if number in (1, 1200):
                tell(log, 3)
            yield line

    export._lines = appending  # type: ignore[assignment]
    try:
        export.export(log, home, tmp_path / "log")
    finally:
        export._lines = seen
    found = export.verify_file(tmp_path / "log")
    assert found.ok and found.rows == 1500 and verify(log, home).rows == 1506


# Listing


def test_rows_are_found_by_who_what_and_when_a_page_at_a_time(log: Store) -> None:
    tell(log, 3, at="2020-01-01T00:00:00.000000Z")
    with log.write() as connection:
        for action in (Action.KEY_CREATE, Action.KEY_REVOKE):
            audit.append(connection, action, "k1", actor="key-7")
    with log.read() as connection:
        seqs = lambda **wanted: [row.seq for row in listing.find(connection, Filter(**wanted), 3)]  # noqa: E731
        assert seqs() == [5, 4, 3] and seqs(below=3) == [2, 1]
        assert seqs(action="key") == [5, 4] and seqs(action="key.revoke") == [5] and seqs(action="ke%") == []
        assert seqs(actor="key-7", object="k1") == [5, 4] and seqs(actor="' or 1=1 --") == []
        assert seqs(until="2021-01-01T00:00:00.000000Z") == [3, 2, 1] and seqs(since="2021-01-01T00:00:00.000000Z") == [5, 4]


def test_head_is_one_row(log: Store) -> None:
    tell(log, 2)
    with log.read() as connection:
        assert connection.execute(select(schema.audit_head.c.seq)).all() == [(2,)]
