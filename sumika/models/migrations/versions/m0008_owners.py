"""Ids of teams, and owners: of versions, aliases, jobs; how confidential files and jobs are."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_SENSITIVITY = "sensitivity in ('public', 'internal', 'confidential')"
_OWNED = ("files", "batches", "orders")


def upgrade() -> None:
    owner = sa.String(length=140)
    for table in ("aliases", "moves", "versions"):
        op.add_column(table, sa.Column("owner", owner, nullable=True))
    op.create_index(op.f("ix_versions_owner"), "versions", ["owner"])
    op.add_column("keys", sa.Column("team_id", sa.String(length=40), nullable=True))
    op.add_column("teams", sa.Column("id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("alias", sa.String(length=64), nullable=True))
    # `versions` and `jobs` are referred to, so that SQLite can't make them anew: their columns are added as they shall stay.
    op.add_column("jobs", sa.Column("owner", owner, nullable=False, server_default="operator"))
    for table in ("jobs", "files"):
        # What a request counts as that says nothing.
        op.add_column(table, sa.Column("sensitivity", sa.String(length=12), nullable=False, server_default="internal"))
    _fill(op.get_bind())
    with op.batch_alter_table("teams") as batch:
        batch.alter_column("id", nullable=False)
        batch.create_unique_constraint(op.f("uq_teams_id"), ["id"])
    op.create_index(op.f("ix_jobs_owner"), "jobs", ["owner"])
    with op.batch_alter_table("files") as batch:
        batch.alter_column("sensitivity", server_default=None)
        batch.create_check_constraint(op.f("ck_files_sensitivity"), _SENSITIVITY)


def downgrade() -> None:
    connection = op.get_bind()
    for team in _rows(connection, "select id, name from teams"):
        for table in _OWNED:
            changing = f"update {table} set owner = :new where owner = :old"  # noqa: S608 - a table of ours
            _set(connection, changing, old=team.id, new=f"team:{team.name}")
    op.drop_index(op.f("ix_jobs_owner"), table_name="jobs")
    op.drop_index(op.f("ix_versions_owner"), table_name="versions")
    with op.batch_alter_table("files") as batch:
        batch.drop_constraint(op.f("ck_files_sensitivity"), type_="check")
        batch.drop_column("sensitivity")
    for name in ("sensitivity", "alias", "owner"):
        op.drop_column("jobs", name)
    with op.batch_alter_table("teams") as batch:
        batch.drop_constraint(op.f("uq_teams_id"), type_="unique")
        batch.drop_column("id")
    op.drop_column("keys", "team_id")
    for table in ("versions", "moves", "aliases"):
        op.drop_column(table, "owner")


def _fill(connection: sa.Connection) -> None:
    """What says `team:NAME` becomes the team's that bears the name now; what is older than that team stays as it is, which is
    nobody's name, so that administrators alone see it."""
    for team in _rows(connection, "select name, created_at from teams"):
        _set(
            connection, "update teams set id = :id where name = :name", id=(id := f"team-{secrets.token_hex(8)}"), name=team.name
        )
        same = {"id": id, "name": team.name, "since": team.created_at}
        _set(connection, "update keys set team_id = :id where team = :name and created_at >= :since", **same)
        for table in _OWNED:
            changing = f"update {table} set owner = :id where owner = :was and created_at >= :since"  # noqa: S608
            _set(connection, changing, id=id, was=f"team:{team.name}", since=team.created_at)
    owners = {key.id: key.team_id or f"key:{key.id}" for key in _rows(connection, "select id, team_id from keys")}
    _fill_jobs(connection, owners)
    _fill_aliases(connection)


def _fill_jobs(connection: sa.Connection, owners: dict[str, str]) -> None:
    """A job is its submitter's, and so is the version that it made; what was typed on the server is the operator's."""
    through_api = sa.text("select job_id, owner, asked from orders").columns(asked=sa.JSON())
    orders = {row.job_id: row for row in connection.execute(through_api)}
    for job in _rows(connection, "select id, actor, version from jobs"):
        order = orders.get(job.id)
        owner = order.owner if order else owners.get(job.actor, f"key:{job.actor}" if job.actor.startswith("oidc:") else None)
        if owner is None:
            continue
        alias = order.asked.get("name") if order else None
        _set(connection, "update jobs set owner = :owner, alias = :alias where id = :id", owner=owner, alias=alias, id=job.id)
        name, _, number = (job.version or "").rpartition("@")
        if name and number.isdigit():
            of_job = "update versions set owner = :owner where name = :name and number = :number and kind = 'adapter'"
            _set(connection, of_job, owner=owner, name=name, number=int(number))


def _fill_aliases(connection: sa.Connection) -> None:
    """An alias is the team's whose engineer led it first; of all others administrators say whose they are."""
    asked = (
        "select moves.alias, keys.team_id from moves join keys on keys.id = moves.actor "
        "where keys.role = 'engineer' and keys.team_id is not null and moves.state = 'done' order by moves.id desc"
    )
    for name, owner in {row.alias: row.team_id for row in _rows(connection, asked)}.items():
        _set(connection, "update aliases set owner = :owner where name = :name", owner=owner, name=name)


def _rows(connection: sa.Connection, query: str) -> list[Any]:
    return list(connection.execute(sa.text(query)))


def _set(connection: sa.Connection, statement: str, **values: Any) -> None:
    connection.execute(sa.text(statement), values)
