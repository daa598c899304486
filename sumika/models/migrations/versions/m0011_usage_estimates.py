"""Which rows of usage hold the gateway's estimate in place of an engine's own count."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # The default stays: a gateway of the release before writes rows without this column until it is replaced.
    op.add_column("usage", sa.Column("estimated", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(sa.text("UPDATE usage SET estimated = partial WHERE partial"))


def downgrade() -> None:
    op.drop_column("usage", "estimated")
