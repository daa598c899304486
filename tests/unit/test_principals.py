"""Whatever somebody makes reaches no further than they do, in any direction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumika.models import keys, teams
from sumika.models.errors import SumikaError
from sumika.models.principals import ENDPOINTS, ROLES, SENSITIVITIES, Endpoint, Principal, Scopes, check_within
from sumika.models.store import Store

ALIASES = ("faq", "talk", "law")
TEAMS = (None, "soumu", "eigyo")
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def some_of(names: tuple[str, ...]) -> st.SearchStrategy[frozenset[str] | None]:
    return st.none() | st.frozensets(st.sampled_from(names))


scopes = st.builds(Scopes, some_of(ALIASES), some_of(ENDPOINTS), st.sampled_from(SENSITIVITIES))  # type: ignore[arg-type]
moments = st.none() | st.integers(0, 5).map(lambda days: NOW + timedelta(days=days))
principals = st.builds(Principal, st.just("k"), st.just("n"), st.sampled_from(ROLES), st.sampled_from(TEAMS), scopes, moments)


@given(principals, principals)
def test_what_is_allowed_is_never_wider_than_its_creator(creator: Principal, made: Principal) -> None:
    try:
        check_within(creator, made.role, made.team, made.scopes, made.until)
    except SumikaError as error:
        assert (error.code, error.status) == ("wider_than_creator", 403)
        return
    assert ROLES.index(made.role) >= ROLES.index(creator.role)
    assert creator.role != "app" and (creator.role == "admin" or (made.role, made.team) == ("app", creator.team))
    assert all(creator.may_use(alias) for alias in ALIASES if made.may_use(alias)) and (
        creator.may_use("new") or not made.may_use("new")
    )
    assert all(creator.may_reach(endpoint) for endpoint in ENDPOINTS if made.may_reach(endpoint))
    assert all(creator.may_send(level) for level in SENSITIVITIES if made.may_send(level))
    assert creator.until is None or (made.until is not None and made.until <= creator.until)


@given(principals)
def test_administrator_without_bounds_may_make_anything(made: Principal) -> None:
    check_within(Principal("a", "a", "admin"), made.role, made.team, made.scopes, made.until)


@pytest.mark.parametrize(
    ("creator", "wish", "param"),
    [
        (Principal("e", "e", "engineer", "soumu"), {"role": "engineer", "team": "soumu"}, "role"),
        (Principal("e", "e", "engineer", "soumu"), {"role": "admin"}, "role"),
        (Principal("e", "e", "engineer", "soumu"), {"team": "eigyo"}, "team"),
        (Principal("e", "e", "engineer", "soumu"), {}, "team"),
        (Principal("e", "e", "engineer", "soumu", Scopes(frozenset({"faq"}))), {"team": "soumu"}, "aliases"),
        (Principal("e", "e", "engineer", "soumu", Scopes(frozenset({"faq"}))), {"team": "soumu", "aliases": ["faq", "law"]}, "aliases"),
        (Principal("a", "a", "admin", None, Scopes(endpoints=frozenset[Endpoint]({"admin"}))), {}, "endpoints"),
        (Principal("a", "a", "admin", None, Scopes(sensitivity="internal")), {"sensitivity": "confidential"}, "sensitivity"),
        (Principal("a", "a", "admin", until=NOW), {}, "expires_at"),
    ],
)  # fmt: skip
def test_key_wider_than_its_creator_is_refused_and_not_made(
    store: Store, creator: Principal, wish: dict[str, str], param: str
) -> None:
    with store.write() as connection:
        for team in ("soumu", "eigyo"):
            teams.create(connection, team)
    with pytest.raises(SumikaError) as told, store.write() as connection:
        keys.create(connection, "bot", creator=creator, **wish)  # type: ignore[arg-type]
    assert (told.value.code, told.value.param) == ("wider_than_creator", param)
    with store.read() as connection:
        assert keys.list_all(connection) == []


def test_key_that_reaches_further_is_not_rotated_into_smaller_hands(store: Store) -> None:
    """Who rotates a key comes to hold it."""
    with store.write() as connection:
        teams.create(connection, "soumu")
        _, key = keys.create(connection, "bot", team="soumu", sensitivity="confidential")
    small = Principal("e", "e", "engineer", "soumu", Scopes(sensitivity="public"))
    with pytest.raises(SumikaError) as told, store.write() as connection:
        keys.rotate(connection, key.id, timedelta(0), by=small)
    assert told.value.code == "wider_than_creator"
    with store.read() as connection:
        assert keys.get(connection, key.id).hash == key.hash


def test_rotation_keeps_the_id_and_two_secrets_for_the_overlap_alone(store: Store) -> None:
    with store.write() as connection:
        first, key = keys.create(connection, "bot", aliases=["faq"])
        second, rotated = keys.rotate(connection, key.id, timedelta(hours=24))
    now = datetime.now(UTC)
    assert rotated.id == key.id and rotated.scopes == key.scopes and first != second
    assert set(rotated.secrets_at(now)) == {keys.hashed(first), keys.hashed(second)}
    assert set(rotated.secrets_at(now + timedelta(hours=25))) == {keys.hashed(second)}
    with store.write() as connection:
        third, again = keys.rotate(connection, key.id, timedelta(0))
        assert set(again.secrets_at(now)) == {keys.hashed(third)}
        assert keys.revoke(connection, key.id).secrets_at(now) == {}
        with pytest.raises(SumikaError) as told:
            keys.rotate(connection, key.id, timedelta(0))
        assert told.value.code == "key_ended"


def test_team_with_a_living_key_stays(store: Store) -> None:
    with store.write() as connection:
        teams.create(connection, "soumu", "総務部")
        _, key = keys.create(connection, "bot", team="soumu")
        with pytest.raises(SumikaError) as told:
            teams.remove(connection, "soumu")
        assert told.value.code == "in_use"
        keys.revoke(connection, key.id)
        assert teams.remove(connection, "soumu").title == "総務部"
        with pytest.raises(SumikaError) as told:
            keys.create(connection, "bot", team="soumu")
        assert told.value.code == "not_found"
