"""API keys: made once, shown once, stored as a hash.

A key is `sk-sumika-` + 43 characters of base62 (256 random bits) + 6 of CRC-32, so that a typing error or a foreign
token is told apart before any look-up, and leaks can be searched for.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, or_, select, update

from sumika.models import audit, clock, schema, teams
from sumika.models.actor import UNNAMED
from sumika.models.audit import Action, state
from sumika.models.errors import SumikaError, not_found
from sumika.models.names import check_name
from sumika.models.principals import USUAL, Endpoint, Principal, Role, Scopes, Sensitivity, check_within

PREFIX = "sk-sumika-"
LONGEST_OVERLAP = timedelta(days=30)
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM = 43  # 62**43 > 2**256
_CHECK = 6  # 62**6 > 2**32
_k = schema.keys


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; never the key itself. `aliases` and `endpoints` None: no limit beyond the role's.
    `previous_hash` is the secret before the last rotation, good until `previous_until`."""

    id: str
    name: str
    hash: str
    last4: str
    role: Role
    aliases: tuple[str, ...] | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    team: str | None
    endpoints: tuple[Endpoint, ...] | None
    sensitivity: Sensitivity
    creator: str
    rotated_at: str | None
    previous_hash: str | None
    previous_until: str | None
    last_used_at: str | None
    team_id: str | None

    def shown(self) -> dict[str, Any]:
        """Everything but the hashes, which help nobody and belong in the store alone."""
        return {name: value for name, value in asdict(self).items() if name not in ("hash", "previous_hash")}

    @property
    def ends_at(self) -> datetime | None:
        return None if self.expires_at is None else clock.parse(self.expires_at)

    @property
    def principal(self) -> Principal:
        return Principal(self.id, self.name, self.role, self.team, self.scopes, self.ends_at, self.team_id)

    @property
    def scopes(self) -> Scopes:
        aliases = None if self.aliases is None else frozenset(self.aliases)
        return Scopes(aliases, None if self.endpoints is None else frozenset(self.endpoints), self.sensitivity)

    def valid_at(self, moment: datetime) -> bool:
        return self.revoked_at is None and (self.ends_at is None or self.ends_at > moment)

    def may_use(self, alias: str) -> bool:
        return self.aliases is None or alias in self.aliases

    def secrets_at(self, moment: datetime) -> dict[str, datetime | None]:
        """The hashes of the secrets that are good at `moment`, each with when it ends: one, or two after a rotation."""
        if not self.valid_at(moment):
            return {}
        good = {self.hash: self.ends_at}
        if self.previous_hash is not None and self.previous_until is not None:
            until = clock.parse(self.previous_until)
            if until > moment:
                good[self.previous_hash] = until if self.ends_at is None else min(until, self.ends_at)
        return good


def _key(row: Row[Any]) -> Key:
    lists = {name: None if row._mapping[name] is None else tuple(row._mapping[name]) for name in ("aliases", "endpoints")}
    return Key(**{**row._mapping, **lists})


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode(errors="replace")), _CHECK)


def well_formed(secret: str) -> bool:
    """Whether `secret` could be one of our keys; says nothing of whether it is. Takes every step whatever the others say."""
    body = secret[len(PREFIX) :]
    spelled = secret.startswith(PREFIX) & (len(body) == _RANDOM + _CHECK) & body.isascii() & body.isalnum()
    return spelled & (_checksum(body[:_RANDOM]) == body[_RANDOM:])


def digest(secret: str) -> bytes:
    """SHA-256. A fast hash is right here: the key is 256 random bits, nothing to guess."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def hashed(secret: str) -> str:
    """The same in hex, as the store keeps it."""
    return digest(secret).hex()


def create(
    connection: Connection,
    name: str,
    *,
    role: Role = "app",
    team: str | None = None,
    aliases: Collection[str] | None = None,
    endpoints: Collection[Endpoint] | None = None,
    sensitivity: Sensitivity = USUAL,
    expires_at: datetime | None = None,
    creator: Principal | None = None,
) -> tuple[str, Key]:
    """Make a key: the secret, which exists only here, and its row. `creator` None: the operator at this machine, whom
    nothing bounds.

    Raises:
        SumikaError: `bad_name`; `bad_expiry`, for a moment that has passed; `not_found`, for the team;
            `wider_than_creator` (403).
    """
    check_name(name)
    for alias in aliases or ():
        check_name(alias)
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise SumikaError(
            "bad_expiry",
            "The expiry lies in the past; give a later one.",
            "有効期限が過去です。未来の日時を指定してください。",
            param="expires_at",
        )
    body, hash, last4 = _secret()
    key = Key(
        secrets.token_hex(6), name, hash, last4, role,
        None if aliases is None else tuple(sorted(set(aliases))), clock.now(),
        None if expires_at is None else clock.spell(expires_at), None,
        team, None if endpoints is None else tuple(sorted(set(endpoints))), sensitivity,
        connection.get_execution_options().get("sumika_by", UNNAMED).name[:128], None, None, None, None, None,
    )  # fmt: skip
    if creator is not None:
        check_within(creator, role, team, key.scopes, key.ends_at)
    if team is not None:
        key = replace(key, team_id=teams.get(connection, team, lock=True).id)
    connection.execute(insert(_k).values(**{column.name: getattr(key, column.name) for column in _k.columns}))
    audit.append(connection, Action.KEY_CREATE, key.id, details=_told(key))
    return body, key


def get(connection: Connection, key_id: str) -> Key:
    """Raises SumikaError `not_found`."""
    row = connection.execute(select(_k).where(_k.c.id == key_id)).one_or_none()
    if row is None:
        raise no_such_key(key_id)
    return _key(row)


def list_all(connection: Connection) -> list[Key]:
    return [_key(row) for row in connection.execute(select(_k).order_by(_k.c.created_at))]


def page(connection: Connection, seen_by: Principal, *, team: str | None = None, after: str = "", limit: int) -> list[Key]:
    """Keys that `seen_by` may manage, by name, from the first one behind the key whose id is `after`."""
    query = select(_k).order_by(_k.c.name, _k.c.id).limit(limit)
    if after:
        last = select(_k.c.name).where(_k.c.id == after).scalar_subquery()
        query = query.where(or_(_k.c.name > last, and_(_k.c.name == last, _k.c.id > after)))
    if seen_by.role != "admin":
        query = query.where(_k.c.role == "app", _k.c.team_id.is_not(None), _k.c.team_id == seen_by.team_id)
    return [_key(row) for row in connection.execute(query if team is None else query.where(_k.c.team == team))]


def rotate(connection: Connection, key_id: str, overlap: timedelta, *, by: Principal | None = None) -> tuple[str, Key]:
    """Give a key a new secret; the one before is good for `overlap` longer, one from an earlier rotation ends now.

    The key keeps its id, and with it its scopes, limits, usage and history. `by` None: the operator at this machine.

    Raises:
        SumikaError: `not_found`; `bad_overlap`; `key_ended` (409), for one that is revoked or expired;
            `wider_than_creator` (403), where the key reaches further than `by`, who would come to hold it.
    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise SumikaError(
            "bad_overlap",
            f"The overlap is 0 to {LONGEST_OVERLAP.days} days.",
            f"重複期間は 0〜{LONGEST_OVERLAP.days} 日で指定してください。",
            param="overlap_s",
        )
    row = connection.execute(select(_k).where(_k.c.id == key_id).with_for_update()).one_or_none()
    if row is None:
        raise no_such_key(key_id)
    key, now = _key(row), datetime.now(UTC)
    if not key.valid_at(now):
        raise SumikaError(
            "key_ended",
            f"Key {key_id} is revoked or expired; make a new one.",
            f"キー {key_id} は失効または期限切れです。新しいキーを発行してください。",
            status=409,
        )
    if by is not None:
        check_within(by, key.role, key.team, key.scopes, key.ends_at)
    secret, hash, last4 = _secret()
    before = {"previous_hash": key.hash, "previous_until": clock.spell(now + overlap)} if overlap else {}
    changed = {"hash": hash, "last4": last4, "rotated_at": clock.spell(now), "previous_hash": None, "previous_until": None}
    connection.execute(update(_k).where(_k.c.id == key_id).values(**(changed | before)))
    told = {"last4": last4, "previous_until": before.get("previous_until"), "digest": state.secret_digest(hash)}
    audit.append(connection, Action.KEY_ROTATE, key_id, details=told)
    return secret, get(connection, key_id)


def revoke(connection: Connection, key_id: str) -> Key:
    """End a key, whatever secrets it has, and its limits. Raises SumikaError `not_found`; revoking twice changes nothing."""
    revoking = update(_k).where(_k.c.id == key_id, _k.c.revoked_at.is_(None)).values(revoked_at=clock.now())
    if connection.execute(revoking).rowcount:
        connection.execute(delete(schema.limits).where(schema.limits.c.kind == "key", schema.limits.c.name == key_id))
        audit.append(connection, Action.KEY_REVOKE, key_id)
    return get(connection, key_id)


def note_uses(connection: Connection, uses: Mapping[str, str]) -> None:
    """When keys (id → moment) were last used; an older moment changes nothing."""
    later = or_(_k.c.last_used_at.is_(None), _k.c.last_used_at < bindparam("at"))
    if uses:
        connection.execute(
            update(_k).where(_k.c.id == bindparam("key"), later).values(last_used_at=bindparam("at")),
            [{"key": key, "at": at} for key, at in sorted(uses.items())],
        )


def no_such_key(key_id: str) -> SumikaError:
    return not_found("key", "APIキー", key_id, "'sumika keys list' shows the ids.", "IDは sumika keys list で確認できます。")


def _secret() -> tuple[str, str, str]:
    """A new secret, its hash and its last four characters."""
    body = _base62(secrets.randbits(256), _RANDOM)
    secret = f"{PREFIX}{body}{_checksum(body)}"
    return secret, hashed(secret), secret[-4:]


def _told(key: Key) -> dict[str, Any]:
    """What the audit log keeps of a key that is made."""
    names = ("name", "role", "team", "team_id", "aliases", "endpoints", "sensitivity", "expires_at")
    told = {name: list(value) if isinstance(value := getattr(key, name), tuple) else value for name in names}
    return told | {"digest": state.secret_digest(key.hash)}
