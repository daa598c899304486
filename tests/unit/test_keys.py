from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from sumika.models import keys
from sumika.models.errors import SumikaError
from sumika.models.store import Store


def test_key_created_is_well_formed_and_only_its_hash_is_stored(store: Store) -> None:
    with store.write() as connection:
        secret, key = keys.create(connection, "bot", aliases=["faq"])
        row = " ".join(str(value) for value in connection.execute(text("select * from keys")).one())
    assert keys.well_formed(secret) and secret not in row and keys.hashed(secret) in row
    assert key.may_use("faq") and not key.may_use("other")
    with store.read() as connection:
        assert keys.list_all(connection) == [key]


def test_keys_created_differ(store: Store) -> None:
    with store.write() as connection:
        assert len({keys.create(connection, "bot")[0] for _ in range(50)}) == 50


@given(st.text(max_size=80))
def test_text_that_is_no_key_is_told_without_a_look_up(value: str) -> None:
    assert not keys.well_formed(value) and not keys.well_formed(keys.PREFIX + value)


@given(st.integers(0, 48), st.sampled_from("0aZé\x00 ＡI"))
def test_key_with_one_character_changed_is_not_well_formed(at: int, other: str) -> None:
    body = keys._base62(123456789**8, keys._RANDOM)
    good = keys.PREFIX + body + keys._checksum(body)
    place = len(keys.PREFIX) + at
    changed = good[:place] + other + good[place + 1 :]
    assert keys.well_formed(good) and (changed == good or not keys.well_formed(changed))


def test_key_expires_and_is_revoked(store: Store) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with store.write() as connection:
        _, key = keys.create(connection, "bot", expires_at=soon)
        assert key.valid_at(soon - timedelta(seconds=1)) and not key.valid_at(soon + timedelta(seconds=1))
        revoked = keys.revoke(connection, key.id)
        assert not revoked.valid_at(datetime.now(UTC))
        assert keys.revoke(connection, key.id) == revoked
        with pytest.raises(SumikaError):
            keys.revoke(connection, "unknown")
        with pytest.raises(SumikaError):
            keys.create(connection, "bot", expires_at=datetime.now(UTC) - timedelta(seconds=1))
