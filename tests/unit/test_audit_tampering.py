"""Whoever changes the log behind our back is found out: each of five kinds of tampering, at random, every time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sumika.models import audit
from sumika.models.actor import Actor
from sumika.models.audit import Action, canonical
from sumika.models.audit.chain import AuditRow
from sumika.models.audit.findings import Findings
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness
from sumika.models.home import Home
from sumika.models.store import Store

ROWS = 24
COLUMNS = ("at", "actor", "role", "action", "object", "outcome", "reason", "details", "prev", "hash")
WAYS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seqs = st.integers(1, ROWS)


def filled(root: Path, salt: str, every: int = 1) -> Home:
    """A home whose log has `ROWS` rows, signed after every `every` of them."""
    home = Home(root)
    home.create()
    witness = Witness(home)
    store = Store(f"sqlite:///{home.database}", by=Actor("cli:me@here", "operator"))
    store.migrate()
    for number in range(1, ROWS + 1):
        with store.write() as connection:
            audit.append(connection, Action.ALIAS_DEPLOY, f"faq-{number % 5}", reason=salt, details={"number": number})
        if number % every == 0:
            witness.look(store)
    store.close()
    return home


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return filled(tmp_path_factory.mktemp("dense") / "home", "ours")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return filled(tmp_path_factory.mktemp("sparse") / "home", "ours", every=6)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The rows of another Sumika's log."""
    home = filled(tmp_path_factory.mktemp("foreign") / "home", "theirs")
    connection = sqlite.connect(str(home.database))
    rows: list[tuple[Any, ...]] = connection.execute("select * from audit order by seq").fetchall()
    connection.close()
    return rows


Tamper = Callable[[Any], None]


def found_after(home: Home, tamper: Tamper) -> Findings:
    """What `verify` says of a copy of `home` whose database was worked on directly, without the triggers."""
    copy = home.root.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home.root, copy)
    connection = sqlite.connect(str(copy / "sumika.db"), isolation_level=None)
    for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        connection.execute(f"drop trigger {name}")
    tamper(connection)
    connection.close()
    store = Store(f"sqlite:///{copy / 'sumika.db'}")
    try:
        return verify(store, Home(copy))
    finally:
        store.close()


def first_bad(home: Home, tamper: Tamper) -> int:
    found = found_after(home, tamper)
    assert found.bad is not None and found.bad.to == found.bad.seq and not found.ok
    return found.bad.seq


def rehash(connection: Any, first: int, last: int, prev: str | None = None) -> None:
    """Compute the hashes of rows anew, as somebody would who read our source; `prev` links the first one."""
    for values in connection.execute("select * from audit where seq between ? and ? order by seq", (first, last)).fetchall():
        fields = dict(zip(("seq", *COLUMNS), values, strict=True))
        fields["prev"] = prev or fields["prev"]
        row = AuditRow(**fields | {"details": canonical.load(fields["details"])})
        prev = row.digest()
        connection.execute("update audit set prev = ?, hash = ? where seq = ?", (row.prev, prev, row.seq))
    if last == ROWS:
        connection.execute("update audit_head set hash = ?", (prev,))


def test_untouched_log_verifies(dense: Home, sparse: Home) -> None:
    found = found_after(dense, lambda _: None)
    assert found.ok and (found.first, found.last, found.rows, found.checkpoints, found.unsigned) == (1, ROWS, ROWS, ROWS, 0)
    assert found_after(sparse, lambda _: None).ok


@WAYS
@given(seq=seqs, column=st.sampled_from(COLUMNS), salt=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8))
def test_edit_of_any_field_is_named(dense: Home, seq: int, column: str, salt: str) -> None:
    def edit(connection: Any) -> None:
        connection.execute(f"update audit set {column} = {column} || ? where seq = ?", (f"x{salt}", seq))  # noqa: S608

    assert first_bad(dense, edit) == seq


@WAYS
@given(seq=seqs, following=st.booleans())
def test_edit_with_its_hashes_computed_anew_is_named(dense: Home, seq: int, following: bool) -> None:
    def edit(connection: Any) -> None:
        connection.execute("update audit set actor = 'cli:somebody-else@here' where seq = ?", (seq,))
        rehash(connection, seq, ROWS if following else seq)

    assert first_bad(dense, edit) == seq


@WAYS
@given(first=seqs, count=st.integers(1, 6), close_gap=st.booleans(), anew=st.booleans())
def test_deletion_is_named(dense: Home, first: int, count: int, close_gap: bool, anew: bool) -> None:
    def remove(connection: Any) -> None:
        last = min(first + count - 1, ROWS)
        (before,) = connection.execute("select coalesce(max(hash), ?) from audit where seq = ?", ("0" * 64, first - 1)).fetchone()
        connection.execute("delete from audit where seq between ? and ?", (first, last))
        if close_gap:
            for seq in range(last + 1, ROWS + 1):
                connection.execute("update audit set seq = ? where seq = ?", (seq - last - 1 + first, seq))
            connection.execute("update audit_head set seq = seq - ?", (last + 1 - first,))
            if anew:
                rehash(connection, first, ROWS, before)

    assert first_bad(dense, remove) == first


@WAYS
@given(pair=st.lists(seqs, min_size=2, max_size=2, unique=True), anew=st.booleans())
def test_reorder_is_named(dense: Home, pair: list[int], anew: bool) -> None:
    def swap(connection: Any) -> None:
        one, other = pair
        connection.execute("update audit set seq = -1 where seq = ?", (one,))
        connection.execute("update audit set seq = ? where seq = ?", (one, other))
        connection.execute("update audit set seq = ? where seq = -1", (other,))
        if anew:
            (before,) = connection.execute(
                "select coalesce(max(hash), ?) from audit where seq = ?", ("0" * 64, min(pair) - 1)
            ).fetchone()
            rehash(connection, min(pair), ROWS, before)

    assert first_bad(dense, swap) == min(pair)


@WAYS
@given(first=seqs, count=st.integers(1, 30), insert=st.booleans(), anew=st.booleans())
def test_splice_of_another_log_is_named(
    dense: Home, foreign: list[tuple[Any, ...]], first: int, count: int, insert: bool, anew: bool
) -> None:
    def splice(connection: Any) -> None:
        (before,) = connection.execute("select coalesce(max(hash), ?) from audit where seq = ?", ("0" * 64, first - 1)).fetchone()
        taken = foreign[first - 1 : first - 1 + count]
        if insert:  # pushed in before our own, which move up
            connection.execute("update audit set seq = -seq where seq >= ?", (first,))
            connection.execute("update audit set seq = -seq + ? where seq < 0", (len(taken),))
        else:
            connection.execute("delete from audit where seq between ? and ?", (first, first + len(taken) - 1))
        connection.executemany(f"insert into audit values ({', '.join('?' * 11)})", taken)  # noqa: S608
        if anew:
            (last,) = connection.execute("select max(seq) from audit").fetchone()
            rehash(connection, first, last, before)
            connection.execute("update audit_head set seq = ?, hash = (select hash from audit where seq = ?)", (last, last))

    assert first_bad(dense, splice) == first


@WAYS
@given(kept=st.integers(0, ROWS - 1), head_too=st.booleans())
def test_truncation_is_named(dense: Home, kept: int, head_too: bool) -> None:
    def truncate(connection: Any) -> None:
        connection.execute("delete from audit where seq > ?", (kept,))
        if head_too:
            (end,) = connection.execute("select coalesce(max(hash), ?) from audit where seq = ?", ("0" * 64, kept)).fetchone()
            connection.execute("update audit_head set seq = ?, hash = ?", (kept, end))

    assert first_bad(dense, truncate) == kept + 1


@WAYS
@given(seq=seqs, through=seqs)
def test_between_checkpoints_the_rows_are_named_among_which_it_is(sparse: Home, seq: int, through: int) -> None:
    def rewrite(connection: Any) -> None:
        connection.execute("update audit set actor = 'nobody' where seq = ?", (seq,))
        rehash(connection, seq, max(seq, through))

    found = found_after(sparse, rewrite).bad
    assert found is not None and found.seq <= seq <= found.to <= found.seq + 5
