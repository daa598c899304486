"""The database: whether it answers, fits this program, and keeps what it acknowledged."""

from __future__ import annotations

from collections.abc import Mapping

from sumika.cli.checkup.finding import Finding, fail, fine, warn

# docs/operations.md: "Two supervisors".
_SKEW_S = 1.0
_POSTGRESQL = 15


def schema(there: str | None, ours: list[str]) -> Finding:
    """`ours`: every schema that this program knows, oldest first."""
    if there is None:
        return fine("schema", "the database is empty; the first start fills it", "データベースは空です(初回起動時に作成されます)")
    if there not in ours:
        return fail(
            "schema", f"the database has schema {there}, which a newer Sumika made; this one knows up to {ours[-1]}: install the newer one",
            f"データベースのスキーマ {there} は新しいSumikaのものです(この版は {ours[-1]} まで)。新しい版を導入してください",
        )  # fmt: skip
    if there != ours[-1]:
        return warn(
            "schema", f"the database has schema {there}; the next start brings it to {ours[-1]}: make a backup first ('sumika backup FILE')",
            f"データベースのスキーマは {there} です。次回起動時に {ours[-1]} に更新されます。先に sumika backup を実行してください",
        )  # fmt: skip
    return fine("schema", f"the database has schema {there}, as this program wants it", f"データベースのスキーマ: {there}")


def silent(why: str) -> Finding:
    return fail(
        "database", f"the database does not answer: {why}; check SUMIKA_DATABASE_URL, the server and the network",
        f"データベースが応答しません: {why}。SUMIKA_DATABASE_URL、サーバー、ネットワークを確認してください",
    )  # fmt: skip


def postgresql(major: int, settings: Mapping[str, str]) -> Finding:
    """`settings`: fsync, synchronous_commit and full_page_writes, as SHOW tells them to our role."""
    losing = [f"{name} = off" for name in ("fsync", "full_page_writes", "synchronous_commit") if settings[name] == "off"]
    if losing:
        told = ", ".join(losing)
        return fail(
            "database", f"PostgreSQL runs with {told}: a crash loses what was acknowledged; set it to on",
            f"PostgreSQLが {told} で動作しており、障害時に確定済みのデータを失います。on にしてください",
        )  # fmt: skip
    if major < _POSTGRESQL:
        return warn(
            "database",
            f"PostgreSQL {major} was not tested; use {_POSTGRESQL} or newer",
            f"PostgreSQL {major} は未検証です。{_POSTGRESQL} 以降を使ってください",
        )
    return fine("database", f"PostgreSQL {major} answers and keeps what it acknowledged", f"PostgreSQL {major} は正常です")


def sqlite(problems: list[str]) -> Finding:
    """`problems`: what `PRAGMA quick_check` found."""
    if problems:
        return fail(
            "database", f"SQLite's file is damaged ({problems[0]}); end Sumika and restore a backup ('sumika restore FILE')",
            f"SQLiteのファイルが破損しています({problems[0]})。Sumikaを停止し、sumika restore で復元してください",
        )  # fmt: skip
    return fine("database", "SQLite's file is whole", "SQLiteのファイルは正常です")


def clock(ahead_s: float) -> Finding:
    """`ahead_s`: seconds that this machine's clock is before the database's."""
    if abs(ahead_s) > _SKEW_S:
        word, word_ja = ("ahead of", "進んで") if ahead_s > 0 else ("behind", "遅れて")
        return fail(
            "clock", f"this machine's clock is {abs(ahead_s):.1f} s {word} the database's: leases go wrong; run NTP (chrony) on both",
            f"このマシンの時計がデータベースより {abs(ahead_s):.1f} 秒{word_ja}います。両方でNTP(chrony)を動かしてください",
        )  # fmt: skip
    return fine("clock", "clocks of this machine and the database agree", "時計はデータベースと一致しています")
