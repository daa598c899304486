"""`expires_after`, as OpenAI's API has it: seconds from when the file was made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sumika.models.errors import SumikaError
from sumika.serving.admin.asking import Body

LEAST_S, MOST_S = 3600, 30 * 24 * 3600


class ExpiresAfter(Body):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_S, le=MOST_S)]


def expiry_seconds(anchor: str | None, seconds: str | None) -> int | None:
    """From the fields of a form; None where neither is given.

    Raises:
        SumikaError: `bad_value`.
    """
    if anchor is None and seconds is None:
        return None
    number = int(seconds) if seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) < 9 else 0
    if anchor != "created_at" or not LEAST_S <= number <= MOST_S:
        raise SumikaError(
            "bad_value", f"expires_after: give anchor 'created_at' and seconds from {LEAST_S:,} to {MOST_S:,}.",
            f"expires_after: anchor に created_at、seconds に {LEAST_S:,}〜{MOST_S:,} を指定してください。", param="expires_after",
        )  # fmt: skip
    return number
