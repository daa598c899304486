"""Limits as OpenAI's clients read them: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`."""

from __future__ import annotations

from collections.abc import Iterable

from sumika.serving.limiting.standing import Standing


def headers(standings: Iterable[Standing]) -> list[tuple[str, str]]:
    """Of requests and of tokens each, those of the limit that has least left."""
    told: list[tuple[str, str]] = []
    tightest: dict[str, Standing] = {}
    for one in standings:
        if one.unit not in tightest or one.left < tightest[one.unit].left:
            tightest[one.unit] = one
    for unit, one in tightest.items():
        told += [
            (f"x-ratelimit-limit-{unit}", str(one.limit)),
            (f"x-ratelimit-remaining-{unit}", str(one.left)),
            (f"x-ratelimit-reset-{unit}", spelled(one.reset_s)),
        ]
    return told


def spelled(seconds: float) -> str:
    """As OpenAI spells it: `20ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
