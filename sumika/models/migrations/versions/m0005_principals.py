"""Teams, scopes and rotation of keys, and sessions of the console."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ROLE = "role in ('admin', 'engineer', 'app')"


def upgrade() -> None:
    with op.batch_alter_table("keys") as batch:
        batch.add_column(sa.Column("team", sa.String(length=64), nullable=True))
        batch.add_column(sa.Column("endpoints", sa.JSON(), nullable=True))
        # Keys from before could send anything, and nobody has said that they may not.
        batch.add_column(sa.Column("sensitivity", sa.String(length=12), nullable=False, server_default="confidential"))
        batch.add_column(sa.Column("creator", sa.String(length=128), nullable=False, server_default="unnamed"))
        batch.add_column(sa.Column("rotated_at", sa.String(length=27), nullable=True))
        batch.add_column(sa.Column("previous_hash", sa.String(length=64), nullable=True))
        batch.add_column(sa.Column("previous_until", sa.String(length=27), nullable=True))
        batch.add_column(sa.Column("last_used_at", sa.String(length=27), nullable=True))
        batch.create_unique_constraint(op.f("uq_keys_previous_hash"), ["previous_hash"])
        batch.create_check_constraint(op.f("ck_keys_sensitivity"), "sensitivity in ('public', 'internal', 'confidential')")
        batch.create_check_constraint(op.f("ck_keys_previous"), "(previous_hash is null) = (previous_until is null)")
    with op.batch_alter_table("keys") as batch:
        batch.alter_column("sensitivity", server_default=None)
        batch.alter_column("creator", server_default=None)
    op.create_table(
        "teams",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_teams")),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("team", sa.String(length=64), nullable=True),
        sa.Column("began_at", sa.String(length=27), nullable=False),
        sa.Column("seen_at", sa.String(length=27), nullable=False),
        sa.CheckConstraint(_ROLE, name=op.f("ck_sessions_role")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )


def downgrade() -> None:
    op.drop_table("sessions")
    op.drop_table("teams")
    with op.batch_alter_table("keys") as batch:
        batch.drop_constraint(op.f("ck_keys_previous"), type_="check")
        batch.drop_constraint(op.f("ck_keys_sensitivity"), type_="check")
        batch.drop_constraint(op.f("uq_keys_previous_hash"), type_="unique")
        for name in (
            "last_used_at",
            "previous_until",
            "previous_hash",
            "rotated_at",
            "creator",
            "sensitivity",
            "endpoints",
            "team",
        ):
            batch.drop_column(name)
