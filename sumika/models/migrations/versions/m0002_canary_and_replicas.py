"""Canary shares, replicas, and what engines take of memory."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_KINDS = ("kind in ('deploy', 'rollback')", "kind in ('deploy', 'rollback', 'canary', 'promote', 'abort')")
_STATES = (
    "state in ('starting', 'ready', 'failed', 'stopping')",
    "state in ('starting', 'ready', 'draining', 'asleep', 'waking', 'failed', 'stopping')",
)


def upgrade() -> None:
    op.create_table(
        "scales",
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("changed_at", sa.String(length=27), nullable=False),
        sa.CheckConstraint("replicas between 1 and 64", name=op.f("ck_scales_replicas")),
        sa.PrimaryKeyConstraint("base", name=op.f("pk_scales")),
    )
    canary = "(canary_id is null) = (canary_share is null)"
    with op.batch_alter_table("aliases") as batch:
        batch.add_column(sa.Column("canary_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("canary_share", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f("fk_aliases_canary_id"), "versions", ["canary_id"], ["id"])
        batch.create_check_constraint(op.f("ck_aliases_canary"), canary)
        batch.create_check_constraint(op.f("ck_aliases_canary_share"), "canary_share between 1 and 99")
    with op.batch_alter_table("moves") as batch:
        batch.drop_constraint(op.f("ck_moves_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_moves_kind"), _KINDS[1])
        batch.add_column(sa.Column("share", sa.Integer(), nullable=True))
    with op.batch_alter_table("engines") as batch:
        batch.drop_constraint(op.f("ck_engines_state"), type_="check")
        batch.create_check_constraint(op.f("ck_engines_state"), _STATES[1])
        batch.add_column(sa.Column("gpu", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("memory", sa.BigInteger(), nullable=True))
    # Gateways write their rows anew at every beat, and their shape changed.
    op.execute("DELETE FROM gateways")
    with op.batch_alter_table("gateways") as batch:
        batch.add_column(sa.Column("waiting", sa.JSON(), nullable=False))


def downgrade() -> None:
    op.execute("DELETE FROM gateways")
    with op.batch_alter_table("gateways") as batch:
        batch.drop_column("waiting")
    op.execute("UPDATE engines SET state = 'stopping' WHERE state IN ('draining', 'asleep', 'waking')")
    with op.batch_alter_table("engines") as batch:
        batch.drop_constraint(op.f("ck_engines_state"), type_="check")
        batch.create_check_constraint(op.f("ck_engines_state"), _STATES[0])
        batch.drop_column("memory")
        batch.drop_column("gpu")
    # A canary that the older code knows nothing of: its share ends, its history goes.
    op.execute("DELETE FROM moves WHERE kind NOT IN ('deploy', 'rollback')")
    with op.batch_alter_table("moves") as batch:
        batch.drop_constraint(op.f("ck_moves_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_moves_kind"), _KINDS[0])
        batch.drop_column("share")
    with op.batch_alter_table("aliases") as batch:
        batch.drop_constraint(op.f("ck_aliases_canary"), type_="check")
        batch.drop_constraint(op.f("ck_aliases_canary_share"), type_="check")
        batch.drop_constraint(op.f("fk_aliases_canary_id"), type_="foreignkey")
        batch.drop_column("canary_share")
        batch.drop_column("canary_id")
    op.drop_table("scales")
