"""Retention: old rows, or only their sealed contents, are deleted so that it can be proven that nothing else was."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select, update

from sumika.models import clock, schema
from sumika.models.audit import chain, checkpoints, state
from sumika.models.audit.actions import Action
from sumika.models.audit.findings import Findings
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness, locked
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store

_a = schema.audit
_c = schema.audit_contents
_h = schema.audit_head


def prune(store: Store, home: Home, before: str, *, contents_only: bool = False, witness: Witness | None = None) -> int:
    """Delete what was written before `before` (`clock`'s spelling); how many rows, or contents, went.

    The row that tells of it is appended, and a checkpoint of where the kept part begins is signed, before anything is
    gone for good: a crash in between leaves everything.

    Raises:
        SumikaError: `audit_broken`, when the log does not verify: what is wrong with it must not be deleted along.
    """
    findings = verify(store, home)
    if not findings.ok:
        raise _broken(findings)
    with locked(home), store.write(quiet=True, statement_s=None) as connection:  # quiet: the witness would wait for our own lock
        pruned = (_prune_contents if contents_only else _prune_rows)(connection, home, before)
    (witness or Witness(home)).look(store)
    return pruned


def _prune_rows(connection: Connection, home: Home, before: str) -> int:
    end = chain.head(connection, lock=True)
    last = _last_before(connection, before, end)
    if last <= end.floor:
        return 0
    floor_hash = chain.hash_at(connection, last)
    rows = last - end.floor
    _tell(connection, last, rows, before, contents_only=False)
    state.tell(connection, "prune")  # what the rows that go told of
    connection.execute(update(_h).values(floor=last, content_floor=max(last, end.content_floor)))
    connection.execute(delete(_c).where(_c.c.seq <= last))
    connection.execute(delete(_a).where(_a.c.seq <= last))
    checkpoints.add(home, "floor", last, str(floor_hash), chain.head(connection).seq - last, clock.now())
    return rows


def _prune_contents(connection: Connection, home: Home, before: str) -> int:  # noqa: ARG001 - as _prune_rows
    end = chain.head(connection, lock=True)
    last = _last_before(connection, before, end)
    contents = connection.scalar(select(func.count()).select_from(_c).where(_c.c.seq <= last)) or 0
    if not contents:
        return 0
    _tell(connection, last, contents, before, contents_only=True)
    connection.execute(update(_h).values(content_floor=last))
    connection.execute(delete(_c).where(_c.c.seq <= last))
    return contents


def _last_before(connection: Connection, before: str, end: chain.Head) -> int:
    """The last row of the unbroken run of rows that are older: a clock that was set back keeps rows, it loses none."""
    kept = connection.scalar(select(func.min(_a.c.seq)).where(_a.c.at >= before))
    return end.seq if kept is None else int(kept) - 1


def _tell(connection: Connection, last: int, rows: int, before: str, *, contents_only: bool) -> None:
    details = {"last": last, "rows": rows, "before": before, "contents_only": contents_only}
    chain.append(connection, Action.AUDIT_PRUNE, "contents" if contents_only else "rows", details=details)


def _broken(findings: Findings) -> SumikaError:
    if findings.bad is not None:
        en, ja = findings.bad.text("en"), findings.bad.text("ja")
    else:
        en = f"Line {findings.bad_checkpoint} of the checkpoints is no good."
        ja = f"チェックポイントの {findings.bad_checkpoint} 行目が正しくありません。"
    if findings.bad is None and findings.bad_checkpoint is None and findings.unexplained:
        en, ja = findings.unexplained[0].text("en"), findings.unexplained[0].text("ja")
    return SumikaError(
        "audit_broken",
        f"Nothing is pruned from an audit log that does not verify. {en} Run 'sumika audit verify', keep a copy of $SUMIKA_HOME and find out who changed it.",
        f"検証に失敗した監査ログからは削除しません。{ja} sumika audit verify を実行し、$SUMIKA_HOME の写しを保全して原因を調べてください。",
        status=409,
    )
