"""Looking things up in the log: rows by who, what, on what and when, newest first, a page at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, or_, select

from sumika.models import schema
from sumika.models.audit import chain
from sumika.models.audit.chain import AuditRow
from sumika.models.errors import SumikaError, not_found

PAGE = 50
_a = schema.audit
_c = schema.audit_contents


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows; None: any. `action` is one action or a noun (`alias` for every `alias.…`). `since` is included,
    `until` and `below` (a sequence number: the last one of the page before) are not."""

    actor: str | None = None
    action: str | None = None
    object: str | None = None
    since: str | None = None
    until: str | None = None
    below: int | None = None

    def told(self) -> dict[str, Any]:
        """What somebody looked for, whatever page of it they saw."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "below"}


def find(connection: Connection, wanted: Filter, limit: int = PAGE) -> list[AuditRow]:
    """Raises SumikaError `audit_broken`, where a row can't be read as one."""
    query = select(_a).order_by(_a.c.seq.desc()).limit(limit)
    if wanted.actor is not None:
        query = query.where(_a.c.actor == wanted.actor)
    if wanted.action is not None:
        query = query.where(or_(_a.c.action == wanted.action, _a.c.action.startswith(f"{wanted.action}.", autoescape=True)))
    if wanted.object is not None:
        query = query.where(_a.c.object == wanted.object)
    if wanted.since is not None:
        query = query.where(_a.c.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(_a.c.at < wanted.until)
    if wanted.below is not None:
        query = query.where(_a.c.seq < wanted.below)
    try:
        return [chain.read(row) for row in connection.execute(query)]
    except ValueError:
        raise SumikaError(
            "audit_broken",
            "A row of the audit log can't be read: somebody changed it. 'sumika audit verify' names it.",
            "監査ログに読み取れない行があります。変更された可能性があります。sumika audit verify で行を特定できます。",
            status=409,
        ) from None


def sealed(connection: Connection, seq: int) -> tuple[AuditRow, bytes]:
    """One row and its sealed content.

    Raises:
        SumikaError: `not_found`, where there is no such row, or none with a content that is still kept; `audit_broken`.
    """
    rows = find(connection, Filter(below=seq + 1), limit=1)
    content = connection.scalar(select(_c.c.sealed).where(_c.c.seq == seq))
    if not rows or rows[0].seq != seq or content is None:
        raise no_content(seq)
    return rows[0], content


def no_content(seq: int) -> SumikaError:
    return not_found(
        "row with sealed content,",
        "暗号化された内容を持つ行",
        str(seq),
        "Contents are kept where 'audit.inference' is 'content', until they are pruned.",
        "内容は audit.inference が content の場合に、削除されるまで保存されます。",
    )
