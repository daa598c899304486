"""Who asks: a Bearer key from the header, looked up by its hash in the worker's snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.types import Scope

from sumika.models import keys
from sumika.models.errors import SumikaError
from sumika.models.keys import Key

_LONGEST_HEADER = 512


def authenticate(scope: Scope, known: Mapping[str, Key]) -> Key:
    """The key of this request.

    Raises:
        SumikaError: `invalid_api_key` (401), the same for none, malformed, unknown, expired and revoked.
    """
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) == 1 and len(given[0]) <= _LONGEST_HEADER:
        scheme, _, secret = given[0].decode("latin-1").partition(" ")
        secret = secret.strip(" ")
        if scheme.lower() == "bearer" and keys.well_formed(secret):
            key = known.get(keys.hashed(secret))
            if key is not None and key.valid_at(datetime.now(UTC)):
                return key
    raise SumikaError(
        "invalid_api_key",
        "The API key is missing or not valid. Send 'Authorization: Bearer sk-sumika-…'; an administrator makes keys with 'sumika keys create'.",
        "APIキーがないか、無効です。「Authorization: Bearer sk-sumika-…」を付けてください。キーは管理者が sumika keys create で発行します。",
        status=401,
    )


def require_admin(key: Key) -> None:
    """Raises SumikaError `forbidden` (403) for any other role."""
    if key.role != "admin":
        raise SumikaError(
            "forbidden",
            "This needs an administrator's key. Ask your administrator.",
            "この操作には管理者のキーが必要です。管理者に依頼してください。",
            status=403,
        )
