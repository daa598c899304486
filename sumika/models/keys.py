"""API keys: made once, shown once, stored as a hash.

A key is `sk-sumika-` + 43 characters of base62 (256 random bits) + 6 of CRC-32, so that a typing error or a foreign
token is told apart before any look-up, and leaks can be searched for.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, insert, select, update

from sumika.models import audit, clock, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found
from sumika.models.names import check_name

Role = Literal["admin", "engineer", "app"]

PREFIX = "sk-sumika-"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM = 43  # 62**43 > 2**256
_CHECK = 6  # 62**6 > 2**32
_k = schema.keys


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; never the key itself. `aliases` None means every alias."""

    id: str
    name: str
    hash: str
    last4: str
    role: Role
    aliases: tuple[str, ...] | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    def valid_at(self, moment: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or clock.parse(self.expires_at) > moment)

    def may_use(self, alias: str) -> bool:
        return self.aliases is None or alias in self.aliases


def _key(row: Row[Any]) -> Key:
    aliases = None if row.aliases is None else tuple(row.aliases)
    return Key(row.id, row.name, row.hash, row.last4, row.role, aliases, row.created_at, row.expires_at, row.revoked_at)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK)


def well_formed(secret: str) -> bool:
    """Whether `secret` could be one of our keys; says nothing of whether it is."""
    body = secret.removeprefix(PREFIX)
    return (
        secret.startswith(PREFIX)
        and len(body) == _RANDOM + _CHECK
        and body.isascii()
        and body.isalnum()
        and _checksum(body[:_RANDOM]) == body[_RANDOM:]
    )


def hashed(secret: str) -> str:
    """A fast hash is right here: the key is 256 random bits, nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    connection: Connection,
    name: str,
    *,
    role: Role = "app",
    aliases: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, Key]:
    """Make a key: the secret, which exists only here, and its row.

    Raises:
        SumikaError: `bad_name`; `bad_expiry`, for a moment that has passed.
    """
    check_name(name)
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise SumikaError(
            "bad_expiry", "The expiry lies in the past; give a later one.", "有効期限が過去です。未来の日時を指定してください。"
        )
    body = _base62(secrets.randbits(256), _RANDOM)
    secret = f"{PREFIX}{body}{_checksum(body)}"
    key = Key(
        secrets.token_hex(6), name, hashed(secret), secret[-4:], role,
        None if aliases is None else tuple(aliases), clock.now(),
        None if expires_at is None else clock.spell(expires_at), None,
    )  # fmt: skip
    connection.execute(
        insert(_k).values(
            id=key.id, name=key.name, hash=key.hash, last4=key.last4, role=key.role,
            aliases=None if key.aliases is None else list(key.aliases),
            created_at=key.created_at, expires_at=key.expires_at,
        )
    )  # fmt: skip
    told = {"name": name, "role": role, "aliases": None if aliases is None else list(aliases), "expires_at": key.expires_at}
    audit.append(connection, Action.KEY_CREATE, key.id, details=told)
    return secret, key


def list_all(connection: Connection) -> list[Key]:
    return [_key(row) for row in connection.execute(select(_k).order_by(_k.c.created_at))]


def revoke(connection: Connection, key_id: str) -> Key:
    """Raises SumikaError `not_found` for an unknown id; revoking twice changes nothing."""
    revoking = update(_k).where(_k.c.id == key_id, _k.c.revoked_at.is_(None)).values(revoked_at=clock.now())
    if connection.execute(revoking).rowcount:
        audit.append(connection, Action.KEY_REVOKE, key_id)
    row = connection.execute(select(_k).where(_k.c.id == key_id)).one_or_none()
    if row is None:
        raise not_found("key", "APIキー", key_id, "'sumika keys list' shows the ids.", "IDは sumika keys list で確認できます。")
    return _key(row)
