"""`sumika db`: which schema the database has, and the way up and back between releases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.cli.shell_user import operator
from sumika.models import audit, upgrades
from sumika.models.audit import Action
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError, quoted
from sumika.models.settings import Settings, load_settings
from sumika.models.store import Store, alembic_config

# The first schema with an audit log.
_LOGGED = "0004"
app = typer.Typer(no_args_is_help=True, help="The database's schema: look, bring up, bring back for an older Sumika.")


@app.command("current")
def current(json: Json = False) -> None:
    """Show the schema that is there and the one that this program wants; changes nothing."""
    with _as_it_is(load_settings()) as store, store.read() as connection:
        there = upgrades.current(connection)
    ours = upgrades.revisions(alembic_config())[-1]
    if json:
        output.print_json({"there": there, "wanted": ours})
        return
    output.say(
        f"The database has schema {there}; this Sumika wants {ours}.",
        f"データベースのスキーマ: {there}、このSumikaのスキーマ: {ours}",
    )


@app.command("upgrade")
def upgrade() -> None:
    """Bring the database to this program's schema, as every start does."""
    with opened():
        ours = upgrades.revisions(alembic_config())[-1]
    output.say(f"The database has schema {ours}.", f"データベースのスキーマは {ours} です。")


@app.command("downgrade")
def downgrade(
    to: Annotated[str, typer.Argument(help="The schema of the older Sumika, as 'sumika db current' shows it there.")],
) -> None:
    """Bring the database back for an older Sumika, with everything ended; install that one next. What it can't hold is lost."""
    with _as_it_is(load_settings()) as store:
        with store.read() as connection:
            there, revisions = upgrades.current(connection), upgrades.revisions(alembic_config())
        with _recorded(store, to) if there in revisions[revisions.index(_LOGGED) :] else nullcontext():
            with store.migrating() as (connection, config):
                upgrades.downgrade(connection, config, to)
        kept = store.engine.dialect.name == "sqlite"
    copied = ("The database as it was lies beside it. ", "変更前のデータベースはその隣に保存されています。") if kept else ("", "")
    output.say(
        f"The database has schema {to}. {copied[0]}Now install the older Sumika: the next command of this one would bring it up again.",
        f"データベースのスキーマは {to} です。{copied[1]}続けて旧版のSumikaを導入してください(この版を実行すると再び更新されます)。",
    )


@contextmanager
def _recorded(store: Store, to: str) -> Iterator[None]:
    """Asked for before it is done: afterwards the log may be another program's, or gone."""
    with store.write() as connection:
        audit.append(connection, Action.STORE_DOWNGRADE, quoted(to, 32), outcome="asked")
    with audit.refusals(store, Action.STORE_DOWNGRADE, quoted(to, 32)):
        yield


@contextmanager
def _as_it_is(settings: Settings) -> Iterator[Store]:
    """The store, without bringing it up."""
    if settings.database_url is None and not settings.layout.database.exists():
        raise SumikaError(
            "not_found",
            f"There is no database at {settings.layout.database} yet; the first start makes it.",
            f"{settings.layout.database} にデータベースはまだありません。初回起動時に作成されます。",
            status=404,
        )
    store = Store(settings.store_url, by=operator(), after_write=Witness(settings.layout, settings.audit.witness).look)
    try:
        yield store
    finally:
        store.close()
