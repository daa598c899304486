"""Usage of every request with its monthly sums, and limits."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("request", sa.String(length=40), nullable=False),
        sa.Column("at", sa.String(length=27), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("team", sa.String(length=64), nullable=True),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("endpoint", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("partial", sa.Boolean(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=True),
        sa.Column("first_ms", sa.Integer(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("request", name=op.f("pk_usage")),
    )
    op.create_index(op.f("ix_usage_at"), "usage", ["at"])
    op.create_table(
        "usage_totals",
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("kind", sa.String(length=5), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind in ('key', 'team', 'alias')", name=op.f("ck_usage_totals_kind")),
        sa.PrimaryKeyConstraint("month", "kind", "name", name=op.f("pk_usage_totals")),
    )
    op.create_table(
        "limits",
        sa.Column("kind", sa.String(length=5), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("tokens_per_minute", sa.Integer(), nullable=True),
        sa.Column("streams", sa.Integer(), nullable=True),
        sa.Column("tokens_per_month", sa.BigInteger(), nullable=True),
        sa.Column("weight", sa.Integer(), nullable=True),
        sa.Column("priority", sa.String(length=11), nullable=True),
        sa.Column("changed_at", sa.String(length=27), nullable=False),
        sa.CheckConstraint("kind in ('key', 'team', 'alias')", name=op.f("ck_limits_kind")),
        sa.CheckConstraint("weight between 1 and 100", name=op.f("ck_limits_weight")),
        sa.CheckConstraint("priority in ('interactive', 'batch')", name=op.f("ck_limits_priority")),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_limits")),
    )


def downgrade() -> None:
    op.drop_table("limits")
    op.drop_table("usage_totals")
    op.drop_index(op.f("ix_usage_at"), table_name="usage")
    op.drop_table("usage")
