"""What a client is told when it may not ask for more now."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sumika.models.errors import SumikaError
from sumika.models.usage.table import Subject
from sumika.serving.limiting.standing import Standing, Unit

_WHO = {"key": ("this key", "このキー"), "team": ("your team", "チーム"), "alias": ("this model", "このモデル")}
_UNITS = {"requests": ("requests", "リクエスト"), "tokens": ("tokens", "トークン")}


class RateLimited(SumikaError):
    """Too fast; `standings` tell how every limit stands."""

    standings: Sequence[Standing] = ()


def too_fast(subject: Subject, unit: Unit, limit: int, wait_s: float, standings: Sequence[Standing]) -> SumikaError:
    (who_en, who_ja), (unit_en, unit_ja), wait = _WHO[subject[0]], _UNITS[unit], max(1, math.ceil(wait_s))
    error = RateLimited(
        "rate_limit_exceeded",
        f"{who_en.capitalize()} may use {limit:,} {unit_en} a minute, and they are used. Try again in {wait} s.",
        f"{who_ja}の上限(毎分 {limit:,} {unit_ja})に達しました。{wait} 秒後にやり直してください。",
        status=429,
        retry_after=wait,
    )
    error.standings = standings
    return error


def too_many_streams(name: str, most: int) -> SumikaError:
    who_en, who_ja = _WHO[name.partition(":")[0]]
    return SumikaError(
        "rate_limit_exceeded",
        f"{who_en.capitalize()} may have {most:,} requests under way at once. Try again when one of them has ended.",
        f"{who_ja}が同時に実行できるリクエストは {most:,} 件までです。実行中のものが終わってからやり直してください。",
        status=429,
        retry_after=1,
    )


def no_budget(subject: Subject, budget: int, left: int, estimate: int) -> SumikaError:
    who_en, who_ja = _WHO[subject[0]]
    return SumikaError(
        "insufficient_quota",
        f"Of {budget:,} tokens a month for {who_en}, {left:,} are left, and this request may take {estimate:,}. "
        "Ask for less (max_tokens), or ask your administrator for more.",
        f"{who_ja}の月間上限 {budget:,} トークンの残りは {left:,} で、このリクエストは最大 {estimate:,} トークンを使います。"
        "max_tokens を減らすか、管理者に上限の引き上げを依頼してください。",
        status=429,
    )
