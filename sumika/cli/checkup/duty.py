"""Whether somebody supervises the engines while gateways answer."""

from __future__ import annotations

from datetime import datetime

from sumika.cli.checkup.finding import Finding, fine, warn
from sumika.models import clock


def supervised(gateways: int, until: str | None, now: datetime) -> Finding:
    """`gateways`: that beat now; `until`: when the supervisor's lease runs out, None while nobody ever had it."""
    held = until is not None and clock.parse(until) > now
    if gateways and not held:
        return warn(
            "supervisor", f"{gateways} gateways answer and nobody supervises the engines (last until {until or 'never'}): swaps and restarts wait; start 'sumika supervise' or look at its log",
            f"ゲートウェイ {gateways} 個が稼働中ですが、監視プロセスがいません(最終: {until or 'なし'})。sumika supervise を起動するか、そのログを確認してください",
        )  # fmt: skip
    if held:
        return fine("supervisor", "a supervisor is at work", "監視プロセスは稼働中です")
    return fine("supervisor", "Sumika does not run now", "Sumikaは停止中です")
