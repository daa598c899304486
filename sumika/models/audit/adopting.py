"""What a home from an older release lacks for its log to be held together with the rest: taken once, as it is at the upgrade."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from sumika.models import schema, signing
from sumika.models.actor import SYSTEM
from sumika.models.audit import chain, checkpoints, state
from sumika.models.audit.actions import Action
from sumika.models.audit.chain import Entry
from sumika.models.home import Home
from sumika.models.store import Store

_SINCE = "0010"
"""The schema of the first release that tells of keys' secrets, and signs which checkpoint is the last."""
_WHY = "upgrade"
_a = schema.audit


def adopt(connection: Connection, home: Home, before: str | None) -> None:
    """In the transaction of an upgrade from the schema `before`; None: from nothing."""
    if before is not None and before < _SINCE:
        state.tell(connection, f"{_WHY} from schema {before}")
        _adopt_home(connection, home)


def adopt_home(store: Store, home: Home) -> None:
    """Another host's home on a database that was upgraded from elsewhere: once, and only where it signed nothing since."""
    last = checkpoints.last(home)
    if home.last_checkpoint.exists() or last is None:
        return
    told = select(_a.c.seq).where(_a.c.action == Action.AUDIT_STATE)
    with store.write(by=SYSTEM) as connection:
        upgraded = connection.scalar(select(func.min(_a.c.seq)).where(_a.c.seq.in_(told), _a.c.reason.startswith(_WHY)))
        known = connection.scalar(told.where(_a.c.object == signing.fingerprint(signing.show(home))))
        if upgraded is not None and last.seq < upgraded and known is None:
            _adopt_home(connection, home)


def _adopt_home(connection: Connection, home: Home) -> None:
    """Never where it was said already which line is the last, nor where the home signed for what older releases don't write: whoever
    took that file away, or set the schema back, would have us sign what they left of the log."""
    last = checkpoints.last(home)
    if last is not None and not home.last_checkpoint.exists() and not _is_newer(connection, last.seq):
        key = signing.fingerprint(signing.show(home))
        chain.append_many(connection, [Entry(Action.AUDIT_STATE, key, reason="home", actor=SYSTEM)])
        checkpoints.keep_last(home)


def _is_newer(connection: Connection, seq: int) -> bool:
    """Whether the rows up to `seq` tell of what releases before `_SINCE` don't."""
    digest = (_a.c.action == Action.KEY_CREATE) & _a.c.details.contains('"digest":"', autoescape=True)
    return (
        connection.scalar(select(_a.c.seq).where(_a.c.seq <= seq, digest | (_a.c.action == Action.AUDIT_STATE)).limit(1))
        is not None
    )
