"""At most one open move for each alias. Where several are open, all but the newest end as refused."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_OPEN = sa.text("state = 'open'")
_ERROR = {
    "code": "superseded",
    "en": "A later move of this alias was open too; only the newest goes on.",
    "ja": "同じエイリアスに後から依頼された切り替えがあったため、終了しました。",
}


def upgrade() -> None:
    older = sa.text(
        "UPDATE moves SET state = 'refused', step = 'ended', ended_at = :now, error = :error"
        " WHERE state = 'open' AND id NOT IN (SELECT max(id) FROM moves WHERE state = 'open' GROUP BY alias)"
    ).bindparams(sa.bindparam("error", type_=sa.JSON()))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    op.get_bind().execute(older, {"now": now, "error": _ERROR})
    op.create_index("ix_moves_open", "moves", ["alias"], unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN)


def downgrade() -> None:
    op.drop_index("ix_moves_open", table_name="moves")
