"""The Redis or Valkey in which gateway workers count limits together."""

from __future__ import annotations

from sumika.cli.checkup.finding import Finding, fail, fine

# Our scripts read the server's time and then write; before 5.0 that is refused (Redis 5.0 release notes: effects replication is the default).
_FLOOR = (5, 0)


def redis(version: str | None, why: str = "") -> Finding:
    """`version`: as INFO's redis_version tells it (Valkey's too); None where none answers, and `why`."""
    if version is None:
        return fail(
            "redis", f"limits_url does not answer ({why}): requests under limits are refused; start Redis or Valkey, or correct it",
            f"limits_url が応答しません({why})。制限付きのリクエストは拒否されます。RedisまたはValkeyを起動するか、設定を直してください",
        )  # fmt: skip
    if tuple(int(part) for part in version.split(".")[:2]) < _FLOOR:
        return fail(
            "redis",
            f"Redis {version} is too old; use 5.0 or newer, or Valkey",
            f"Redis {version} は古すぎます。5.0以降またはValkeyを使ってください",
        )
    return fine("redis", f"Redis {version} answers", f"Redis {version} は正常です")


def none() -> Finding:
    return fine("redis", "one gateway worker counts limits by itself", "ゲートウェイ1プロセスのため、Redisは不要です")
