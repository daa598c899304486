"""The audit log, and triggers that keep it append-only.

Pruning is the one way to delete: it sets the floor in `audit_head` first, and the triggers let go what lies at or below
it. A later migration that makes these tables anew (batch mode on SQLite) must make the triggers again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_FLOORS = {"audit": "floor", "audit_contents": "content_floor"}


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=27), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("object", sa.String(length=255), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"])
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=False),
        sa.Column("content_floor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "audit_contents",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["audit.seq"], name=op.f("fk_audit_contents_seq")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_contents")),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64, "floor": 0, "content_floor": 0}])
    guard = _guard_postgresql if op.get_bind().dialect.name == "postgresql" else _guard_sqlite
    for table, floor in _FLOORS.items():
        guard(table, floor)


def _guard_sqlite(table: str, floor: str) -> None:
    told = f"SELECT RAISE(ABORT, '{table} is append-only: see docs/audit.md')"
    op.execute(f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN {told}; END")
    op.execute(
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "  # noqa: S608 - names of ours
        f"WHEN OLD.seq > (SELECT {floor} FROM audit_head) BEGIN {told}; END"
    )


def _guard_postgresql(table: str, floor: str) -> None:
    op.execute(
        f"CREATE FUNCTION {table}_guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "  # noqa: S608
        f"IF TG_OP = 'DELETE' THEN IF OLD.seq <= (SELECT {floor} FROM audit_head) THEN RETURN OLD; END IF; END IF; "
        f"RAISE EXCEPTION '{table} is append-only: see docs/audit.md'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_guard()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_guard()"
    )


def downgrade() -> None:
    op.drop_table("audit_contents")
    op.drop_table("audit_head")
    op.drop_index(op.f("ix_audit_at"), table_name="audit")
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        for table in _FLOORS:
            op.execute(f"DROP FUNCTION {table}_guard()")
