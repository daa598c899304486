"""The store's tables. Migrations under `migrations/versions` create them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
_MOMENT = String(27)

# One row: how often the registry, keys or engines changed. Readers poll it and reload only when it moved.
revision = Table("revision", metadata, Column("id", Integer, primary_key=True), Column("n", Integer, nullable=False))

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("base_id", Integer, ForeignKey("versions.id")),
    Column("folder", String(255), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("gate", String(8), nullable=False),
    Column("meta", JSON, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("removed_at", _MOMENT),
    # Whose it is (`Principal.owner`); null: everybody's.
    Column("owner", String(140), index=True),
    UniqueConstraint("name", "number"),
    CheckConstraint("kind in ('base', 'adapter')", name="kind"),
    CheckConstraint("gate in ('none', 'passed', 'refused')", name="gate"),
    CheckConstraint("(kind = 'adapter') = (base_id is not null)", name="lineage"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version_id", Integer, ForeignKey("versions.id"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("moved_at", _MOMENT, nullable=False),
    # Another version that `canary_share` percent of the keys get.
    Column("canary_id", Integer, ForeignKey("versions.id")),
    Column("canary_share", Integer),
    # Who may move it (`Principal.owner`); null: everybody sees it, administrators move it.
    Column("owner", String(140)),
    CheckConstraint("(canary_id is null) = (canary_share is null)", name="canary"),
    CheckConstraint("canary_share between 1 and 99", name="canary_share"),
)

# What was asked of an alias and how it ended; the rows that are done are the alias's history.
moves = Table(
    "moves",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("alias", String(64), nullable=False, index=True),
    Column("from_id", Integer, ForeignKey("versions.id")),
    Column("to_id", Integer, ForeignKey("versions.id"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("state", String(8), nullable=False),
    Column("step", String(16), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("canary", JSON),
    Column("error", JSON),
    Column("asked_at", _MOMENT, nullable=False),
    Column("ended_at", _MOMENT),
    Column("share", Integer),
    # Whose the alias is once the move is done, where it is a new one.
    Column("owner", String(140)),
    CheckConstraint("kind in ('deploy', 'rollback', 'canary', 'promote', 'abort')", name="kind"),
    CheckConstraint("state in ('open', 'done', 'refused')", name="state"),
)
# At most one open move for each alias.
Index("ix_moves_open", moves.c.alias, unique=True, sqlite_where=moves.c.state == "open", postgresql_where=moves.c.state == "open")

# How many engines each base shall have, by the base's name; one where no row says otherwise.
scales = Table(
    "scales",
    metadata,
    Column("base", String(64), primary_key=True),
    Column("replicas", Integer, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("changed_at", _MOMENT, nullable=False),
    CheckConstraint("replicas between 1 and 64", name="replicas"),
)

# What the supervisor sees: one row for each engine process.
engines = Table(
    "engines",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("base_id", Integer, ForeignKey("versions.id"), nullable=False),
    Column("socket", String(255), nullable=False),
    Column("state", String(10), nullable=False),
    Column("pid", Integer),
    Column("pid_started", String(32)),
    Column("adapters", JSON, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("error", Text),
    Column("changed_at", _MOMENT, nullable=False),
    # The GPU it runs on, and the bytes it takes there (or of main memory): planned while it starts, then measured.
    Column("gpu", Integer),
    Column("memory", BigInteger),
    CheckConstraint("state in ('starting', 'ready', 'draining', 'asleep', 'waking', 'failed', 'stopping')", name="state"),
)

# What each gateway worker has seen, has running (engine -> version -> requests) and has waiting (base -> requests), so
# that an adapter is unloaded only when nobody uses it, and a sleeping base is woken when somebody does.
gateways = Table(
    "gateways",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("seen_revision", Integer, nullable=False),
    Column("running", JSON, nullable=False),
    Column("beat_at", _MOMENT, nullable=False),
    Column("waiting", JSON, nullable=False),
)

# Who may act as the supervisor, until when; the token fences off one that was paused and wakes.
leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("token", Integer, nullable=False),
    Column("until", _MOMENT, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("last4", String(4), nullable=False),
    Column("role", String(8), nullable=False),
    Column("aliases", JSON),
    Column("created_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT),
    Column("revoked_at", _MOMENT),
    # A team's name; it stays here when the team goes.
    Column("team", String(64)),
    Column("endpoints", JSON),
    Column("sensitivity", String(12), nullable=False),
    Column("creator", String(128), nullable=False),
    Column("rotated_at", _MOMENT),
    # The secret before the last rotation, which is good until then.
    Column("previous_hash", String(64), unique=True),
    Column("previous_until", _MOMENT),
    Column("last_used_at", _MOMENT),
    # The team itself: a name may come to be another's.
    Column("team_id", String(40)),
    CheckConstraint("role in ('admin', 'engineer', 'app')", name="role"),
    CheckConstraint("sensitivity in ('public', 'internal', 'confidential')", name="sensitivity"),
    CheckConstraint("(previous_hash is null) = (previous_until is null)", name="previous"),
)

teams = Table(
    "teams",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("title", String(128), nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    # What owns things (`Principal.owner`); never another team's, whatever becomes of the name.
    Column("id", String(40), nullable=False, unique=True),
)

# Who is signed in at the console: by the SHA-256 of what the browser holds.
sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("principal", String(128), nullable=False),
    Column("name", String(128), nullable=False),
    Column("role", String(8), nullable=False),
    Column("team", String(64)),
    Column("began_at", _MOMENT, nullable=False),
    Column("seen_at", _MOMENT, nullable=False),
    CheckConstraint("role in ('admin', 'engineer', 'app')", name="role"),
)

# Training jobs: what was asked, which worker has it, and how it ended. The run's folder holds all else.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("run", String(128), nullable=False, unique=True),
    Column("state", String(10), nullable=False, index=True),
    Column("priority", Integer, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("memory", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    # The worker that has it, the GPU it was given, and when the worker last said so.
    Column("worker", String(64)),
    Column("gpu", Integer),
    Column("beat_at", _MOMENT),
    # Why it waits, or how it failed.
    Column("note", JSON),
    Column("version", String(80)),
    Column("asked_at", _MOMENT, nullable=False),
    Column("started_at", _MOMENT),
    Column("ended_at", _MOMENT),
    # Whose it is (`Principal.owner`), the alias it trains for (null: of before schema 0008), and how confidential its data is.
    Column("owner", String(140), nullable=False, server_default="operator", index=True),
    Column("alias", String(64)),
    Column("sensitivity", String(12), nullable=False, server_default="internal"),
    CheckConstraint("state in ('queued', 'running', 'stopping', 'done', 'refused', 'failed', 'cancelled')", name="state"),
    CheckConstraint("priority between -100 and 100", name="priority"),
)

# Who did what: append-only, each row's `hash` over all its fields and the hash before it (`audit/chain.py`). Triggers
# refuse UPDATE, and DELETE of what lies above the floors of `audit_head`, which pruning alone moves.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", _MOMENT, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("action", String(32), nullable=False),
    Column("object", String(255), nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("prev", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

# One row: where the chain ends, and up to where rows and sealed contents were pruned.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("floor", BigInteger, nullable=False),
    Column("content_floor", BigInteger, nullable=False),
)

# What was asked and answered, sealed to a key that is not on this machine; the row of `audit` keeps its hash.
audit_contents = Table(
    "audit_contents",
    metadata,
    Column("seq", BigInteger, ForeignKey("audit.seq"), primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
)

# Every request that named a key, as it ended: `usage/rows.py` says what the columns mean.
usage = Table(
    "usage",
    metadata,
    Column("request", String(40), primary_key=True),
    Column("at", _MOMENT, nullable=False, index=True),
    Column("key", String(128), nullable=False),
    Column("team", String(64)),
    Column("alias", String(64), nullable=False),
    Column("version", String(80), nullable=False),
    Column("endpoint", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("code", String(64), nullable=False),
    Column("partial", Boolean, nullable=False),
    Column("prompt_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("first_ms", Integer),
    Column("duration_ms", Integer, nullable=False),
    Column("estimated", Boolean, nullable=False, server_default=false()),
)

# The same, summed by month (of the server's time zone) for each key, team and alias; written with the rows.
usage_totals = Table(
    "usage_totals",
    metadata,
    Column("month", String(7), primary_key=True),
    Column("kind", String(5), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    CheckConstraint("kind in ('key', 'team', 'alias')", name="kind"),
)

# How much each key, team and alias may use; null: no limit.
limits = Table(
    "limits",
    metadata,
    Column("kind", String(5), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("streams", Integer),
    Column("tokens_per_month", BigInteger),
    # Its share where requests wait for a full engine, and how urgent they may be at most.
    Column("weight", Integer),
    Column("priority", String(11)),
    Column("changed_at", _MOMENT, nullable=False),
    CheckConstraint("kind in ('key', 'team', 'alias')", name="kind"),
    CheckConstraint("weight between 1 and 100", name="weight"),
    CheckConstraint("priority in ('interactive', 'batch')", name="priority"),
)

# What clients uploaded and what batches made. The bytes lie in the home, under the id alone (`shelf.py`); `owner` is a team's or
# a key's (`Principal.owner`), `name` what the client calls it.
files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(140), nullable=False, index=True),
    Column("creator", String(128), nullable=False),
    Column("purpose", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT),
    # What the upload's header said, or for what a batch made its batch.
    Column("sensitivity", String(12), nullable=False),
    CheckConstraint("sensitivity in ('public', 'internal', 'confidential')", name="sensitivity"),
    CheckConstraint("purpose in ('batch', 'fine-tune', 'batch_output')", name="purpose"),
)

# Batches: what was asked, under which key it is asked of the models, and how far it is.
batches = Table(
    "batches",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(140), nullable=False, index=True),
    Column("key", String(128), nullable=False),
    Column("state", String(12), nullable=False, index=True),
    Column("endpoint", String(64), nullable=False),
    Column("input_id", String(40), nullable=False),
    # What the client's headers said, which each of its requests says too.
    Column("sensitivity", String(12), nullable=False),
    Column("language", String(2), nullable=False),
    Column("metadata", JSON),
    Column("output_seconds", Integer),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("usage", JSON),
    # Why it failed as a whole, in OpenAI's shape.
    Column("errors", JSON),
    Column("output_id", String(40)),
    Column("errors_id", String(40)),
    Column("created_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT, nullable=False),
    Column("begun_at", _MOMENT),
    Column("finalizing_at", _MOMENT),
    Column("cancelling_at", _MOMENT),
    Column("ended_at", _MOMENT),
    CheckConstraint(
        "state in ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled')",
        name="state",
    ),
)

# Training jobs that came through the API: what was asked (`orders.py`), beside the job's own row.
orders = Table(
    "orders",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(140), nullable=False, index=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False, unique=True),
    Column("asked", JSON, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
)
