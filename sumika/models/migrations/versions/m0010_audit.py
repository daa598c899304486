"""Nothing in the tables: from here on the log tells of what the tables hold (`audit/adopting.py` does so for what was there before)."""

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
