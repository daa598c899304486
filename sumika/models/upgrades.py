"""From one release's schema to another's: in turn, in one transaction, and after a copy of what was there."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from sumika.models import clock
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import sync_folder

# A gateway that has not written its row for so long is none any more.
_SILENT_S = 20


def revisions(config: Config) -> list[str]:
    """What this program knows, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def current(connection: Connection) -> str | None:
    """The revision of the schema that is there; None where there is none yet."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection, config: Config) -> None:
    """Bring what is there to this program's schema.

    Raises:
        SumikaError: `newer_database`; `no_copy`, where SQLite's file can't be copied first. Nothing was changed then.
    """
    ours, there = revisions(config), current(connection)
    _check_known(there, ours)
    if there == ours[-1]:
        return
    keep_copy(connection, there)
    command.upgrade(config, "head")


def downgrade(connection: Connection, config: Config, to: str) -> None:
    """Bring what is there back to the schema `to` of an older program. What that can't hold is lost.

    Raises:
        SumikaError: `newer_database`; `no_such_schema`; `still_running`; `no_copy`. Nothing was changed then.
    """
    ours, there = revisions(config), current(connection)
    _check_known(there, ours)
    older = ours[: ours.index(there)] if there is not None else []
    if to not in older:
        raise SumikaError(
            "no_such_schema",
            f"The database can't go from schema {there} back to '{quoted(to)}'; it can to: {', '.join(older) or 'none'}.",
            f"データベースをスキーマ {there} から「{quoted(to)}」に戻すことはできません。戻せるもの: {', '.join(older) or 'なし'}。",
        )
    _check_still(connection)
    keep_copy(connection, there)
    command.downgrade(config, to)


def keep_copy(connection: Connection, there: str | None) -> Path | None:
    """SQLite's file as it was last committed, beside it as `NAME.schema-REVISION`; None where there is none to keep.

    Raises:
        SumikaError: `no_copy`.
    """
    name = connection.engine.url.database
    if connection.dialect.name != "sqlite" or there is None or name is None:
        return None
    file = Path(name)
    kept = file.with_name(f"{file.name}.schema-{there}")
    try:
        fd, temp = tempfile.mkstemp(dir=file.parent, prefix=f".{kept.name}.")  # 0600
        os.close(fd)
        try:
            # Another connection sees what is committed, while ours keeps others from committing more.
            with closing(sqlite.connect(file)) as source, closing(sqlite.connect(temp)) as target:
                source.backup(target)
            os.replace(temp, kept)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temp)
            raise
        sync_folder(file.parent)
    except (OSError, sqlite.Error) as error:
        raise SumikaError(
            "no_copy",
            f"The database could not be copied to {kept} before its schema is changed ({error}); nothing was changed. Make room on its disk and try again.",
            f"スキーマ変更前にデータベースを {kept} へコピーできませんでした({error})。何も変更していません。ディスクの空きを確保してください。",
            status=507,
        ) from error
    return kept


def _check_known(there: str | None, ours: list[str]) -> None:
    if there is None or there in ours:
        return
    raise SumikaError(
        "newer_database",
        f"The database has schema {quoted(there)}, and this Sumika knows up to {ours[-1]}: a newer one made it. Install the newer one again; "
        f"to stay with this one, run 'sumika db downgrade {ours[-1]}' with the newer one first. Nothing was changed.",
        f"データベースのスキーマは {quoted(there)} ですが、このSumikaが扱えるのは {ours[-1]} までです。新しいSumikaを使うか、"
        f"新しいSumikaで先に sumika db downgrade {ours[-1]} を実行してください。何も変更していません。",
        status=409,
    )


def _check_still(connection: Connection) -> None:
    """Processes that run would meet a schema that they do not know."""
    now = datetime.now(UTC)
    beating = {"now": clock.spell(now), "beat": clock.spell(now - timedelta(seconds=_SILENT_S))}
    alive = "SELECT EXISTS (SELECT 1 FROM leases WHERE until > :now) OR EXISTS (SELECT 1 FROM gateways WHERE beat_at > :beat)"
    if connection.execute(text(alive), beating).scalar_one():
        raise SumikaError(
            "still_running",
            "Sumika runs on this database. End 'sumika up' (or the services) everywhere, wait half a minute, and try again.",
            "このデータベースを使うSumikaが稼働中です。sumika up(またはサービス)をすべて停止し、30秒ほど待ってから再実行してください。",
            status=409,
        )
