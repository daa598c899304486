"""Two connections that meet: whoever comes second waits for the first and sees what it did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from sumika.models import (
    aliases,
    batches,
    files,
    jobs,
    keys,
    leases,
    limits,
    moves,
    orders,
    postgres,
    registry,
    scales,
    schema,
    teams,
)
from sumika.models.actor import SYSTEM
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.files import File
from sumika.models.home import Home
from sumika.models.leases import Lease
from sumika.models.principals import Principal
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store, revision

Act = Callable[[Connection], Any]
_LONG_S = 60


def url_of(store: Store) -> str:
    return store.engine.url.render_as_string(hide_password=False)


def outcome(store: Store, act: Act) -> Any:
    """What `act` gave, or the code it was refused with."""
    try:
        with store.write() as connection:
            return act(connection)
    except SumikaError as error:
        return error.code


def met(store: Store, first: Act, second: Act) -> tuple[Any, Any]:
    """`second` begins when `first` has done all but commit; it must not be through before."""
    begun = threading.Event()

    def run_second() -> Any:
        with closing(Store(url_of(store))) as other:
            begun.set()
            return outcome(other, second)

    with ThreadPoolExecutor(1) as pool:

        def then_wait(connection: Connection) -> Any:
            found = first(connection)
            nonlocal later
            later = pool.submit(run_second)
            assert begun.wait(_LONG_S)
            done = threading.Event()
            later.add_done_callback(lambda _: done.set())
            assert not done.wait(0.3), "the second did not wait for the first"
            return found

        later: Any = None
        given = outcome(store, then_wait)
        return given, later.result(_LONG_S)


def together(store: Store, *acts: Act) -> list[Any]:
    """All at once, each over a connection of its own."""
    ready = threading.Barrier(len(acts))

    def run(act: Act) -> Any:
        with closing(Store(url_of(store))) as own:
            with own.read() as connection:
                revision(connection)
            ready.wait(_LONG_S)
            return outcome(own, act)

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


@pytest.fixture
def base(store: Store) -> Version:
    with store.write() as connection:
        return registry.add(connection, "base", kind="base", folder="base/1", digest="d" * 64)


def version(store: Store, number: int) -> Version:
    with store.write() as connection:
        return registry.add(connection, "other", kind="base", folder=f"other/{number}", digest=str(number) * 64)


def deploy(to: Version, alias: str = "faq") -> Act:
    return lambda connection: aliases.ask_deploy(connection, alias, to, actor="me", reason="").state


def leased(store: Store) -> Lease:
    """A lease that ran out a moment ago; nobody else took it yet."""
    with store.write(quiet=True) as connection:
        lease = leases.take(connection, "supervisor", "old", 0.0)
    assert lease is not None
    return lease


def write_of(lease: Lease) -> Act:
    def act(connection: Connection) -> str:
        leases.check(connection, lease)
        keys.create(connection, f"by-{lease.holder}")
        return "written"

    return act


def take_over(connection: Connection) -> Lease | None:
    return leases.take(connection, "supervisor", "new", 30.0)


def names(store: Store) -> list[str]:
    with store.read() as connection:
        return [key.name for key in keys.list_all(connection)]


def test_takeover_waits_for_a_write_of_the_old_supervisor(store: Store) -> None:
    old = leased(store)
    written, new = met(store, write_of(old), take_over)
    assert written == "written" and new == Lease("supervisor", "new", old.token + 1)
    assert outcome(store, write_of(old)) == "fenced" and names(store) == ["by-old"]


def test_write_of_the_old_supervisor_waits_for_a_takeover_and_is_fenced(store: Store) -> None:
    old = leased(store)
    new, written = met(store, take_over, write_of(old))
    assert isinstance(new, Lease) and written == "fenced" and names(store) == []


def test_supervisor_that_stays_paused_in_its_write_cannot_commit_it(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "IDLE_S", 1.0)
    monkeypatch.setattr(postgres, "LOCK_S", 30.0)
    with closing(Store(postgres_url)) as store, closing(Store(postgres_url)) as other:
        store.migrate()
        old = leased(store)

        def paused(connection: Connection) -> None:
            write_of(old)(connection)
            with other.write() as second:  # waits until the server has ended the first one's transaction
                assert take_over(second) is not None

        assert outcome(store, paused) == "store_unavailable"
        assert names(store) == [] and outcome(store, write_of(old)) == "fenced"


def test_row_of_the_lease_is_locked_for_a_takeover_by_other_means(postgres_url: str) -> None:
    with closing(Store(postgres_url)) as store:
        store.migrate()
        old = leased(store)
        with store.write() as connection:
            leases.check(connection, old)
            with store.engine.connect() as other, other.begin():
                free = select(schema.leases).with_for_update(skip_locked=True)
                assert other.execute(free).all() == []


def test_one_open_move_for_each_alias(store: Store, base: Version) -> None:
    assert met(store, deploy(base), deploy(base)) == ("open", "move_open")
    assert sorted(together(store, *[deploy(base, "other")] * 4)) == ["move_open"] * 3 + ["open"]
    with store.read() as connection:
        assert sorted(move.alias for move in moves.list_open(connection)) == ["faq", "other"]


def test_database_itself_refuses_a_second_open_move(store: Store, base: Version) -> None:
    outcome(store, deploy(base))
    with store.write() as connection:
        row = connection.execute(select(schema.moves)).mappings().one()
        again = {name: value for name, value in row.items() if name != "id"}
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(insert(schema.moves).values(**again))
        connection.execute(insert(schema.moves).values(**again | {"state": "done"}))


def remove(gone: Version) -> Act:
    return lambda connection: registry.remove(connection, gone)


def test_version_is_not_removed_while_a_move_to_it_begins(store: Store, base: Version) -> None:
    assert met(store, deploy(base), remove(base)) == ("open", "in_use")


def test_no_move_begins_to_a_version_that_is_being_removed(store: Store, base: Version) -> None:
    """`deploy` holds the version as it was read before."""
    assert met(store, remove(base), deploy(base)) == (None, "not_found")


def test_no_canary_begins_to_a_version_that_is_being_removed(store: Store, base: Version) -> None:
    served = version(store, 1)
    with store.write() as connection:
        aliases.finish(connection, aliases.ask_deploy(connection, "faq", served, actor="me", reason=""), None)
    ask: Act = lambda connection: aliases.ask_canary(connection, "faq", base, 10, actor="me", reason="")  # noqa: E731
    assert met(store, remove(base), ask) == (None, "not_found")


def test_move_to_a_version_that_was_removed_is_not_finished(store: Store, base: Version) -> None:
    with store.write() as connection:
        move = aliases.ask_deploy(connection, "faq", base, actor="me", reason="")
        connection.execute(update(schema.versions).values(removed_at="2026-11-27T00:00:00.000000Z"))
    assert outcome(store, lambda connection: aliases.finish(connection, move, None)) == "not_found"
    with store.read() as connection:
        assert aliases.list_all(connection) == []


def test_adapter_is_not_registered_on_a_base_that_is_being_removed(store: Store, base: Version) -> None:
    def register(connection: Connection) -> str:
        on = registry.get(connection, base.ref)
        return str(registry.add(connection, "faq", kind="adapter", folder="faq/1", digest="a" * 64, base=on).ref)

    assert met(store, remove(base), register) == (None, "not_found")


def test_first_starts_at_once_make_one_administrators_key(url: str, home: Home) -> None:
    settings = Settings(home=home.root, database_url=None if url.startswith("sqlite") else url)
    ready = threading.Barrier(4)

    def start(_: int) -> None:
        ready.wait(_LONG_S)
        open_store(settings).close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    with closing(open_store(settings)) as store, store.read() as connection:
        (only,) = keys.list_all(connection)
    assert only.role == "admin" and only.hash == keys.hashed(home.admin_key.read_text().strip())


def test_aliases_are_not_removed_while_a_move_begins(store: Store, base: Version) -> None:
    with store.write() as connection:
        aliases.finish(connection, aliases.ask_deploy(connection, "faq", base, actor="me", reason=""), None)
    gone: Act = lambda connection: aliases.remove(connection, "faq", actor="me", reason="").name  # noqa: E731
    assert met(store, deploy(base), gone) == ("open", "move_open")
    with store.write() as connection:
        aliases.abort(connection, "faq", actor="me", reason="")
    # It then begins as the move of an alias that is new.
    assert met(store, gone, deploy(base)) == ("faq", "open")
    with store.write() as connection:
        (move,) = moves.list_open(connection)
        aliases.finish(connection, move, None)


def test_team_is_not_removed_while_a_key_of_it_is_made(store: Store) -> None:
    outcome(store, lambda connection: teams.create(connection, "dx"))
    make: Act = lambda connection: keys.create(connection, "bot", team="dx")[1].team  # noqa: E731
    assert met(store, make, lambda connection: teams.remove(connection, "dx")) == ("dx", "in_use")
    with store.write() as connection:
        for key in keys.list_all(connection):
            keys.revoke(connection, key.id)
    assert met(store, lambda connection: teams.remove(connection, "dx").name, make) == ("dx", "not_found")


def test_acts_that_meet_end_as_one_after_the_other(store: Store, base: Version) -> None:
    """Each looks first and then writes; without their turn they fail on a unique column, or lose what the other wrote."""
    team: Act = lambda connection: teams.create(connection, "dx").name  # noqa: E731
    assert sorted(together(store, *[team] * 4)) == ["dx", *["team_exists"] * 3]

    def add(folder: str) -> Act:
        return lambda connection: registry.add(connection, "new", kind="base", folder=folder, digest=folder * 64).ref.number

    assert sorted(together(store, *[add(folder) for folder in "abcd"])) == [1, 2, 3, 4]
    scale: Act = lambda connection: scales.put(connection, "base", 2, actor="me")  # noqa: E731
    assert together(store, *[scale] * 4) == [None] * 4

    def limit(name: str) -> Act:
        return lambda connection: limits.set_limits(connection, ("team", "dx"), {name: 7}).weight and None

    given = ("requests_per_minute", "tokens_per_minute", "streams", "weight")
    assert together(store, *map(limit, given)) == [None] * 4
    with store.read() as connection:
        found = limits.find(connection, ("team", "dx"))
    assert [getattr(found, name) for name in given] == [7] * 4


def test_job_is_claimed_once(store: Store) -> None:
    with store.write() as connection:
        job = jobs.submit(connection, "faq", "faq-1", actor="me", memory=1)
    claimed = together(store, *[lambda c, w=w: jobs.claim(c, job, w, None) for w in "abcd"])  # type: ignore[misc]
    assert sum(one is not None for one in claimed) == 1
    ended = together(store, *[lambda c: jobs.cancel(c, job.id).state] * 2)
    assert ended == ["stopping"] * 2


def test_number_of_open_batches_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_OPEN", 2)
    who, file = Principal("k", "k", "app", None), File("file-1", "key:k", "k", "batch", "x", 1, "s", "", None, "internal")

    def create(connection: Connection) -> str:
        return batches.create(
            connection, who, "/v1/chat/completions", file, sensitivity="internal", language="en", metadata=None, output_seconds=None
        ).state  # fmt: skip

    assert sorted(together(store, *[create] * 4)) == ["too_many_batches"] * 2 + ["validating"] * 2


def test_bytes_that_an_owner_may_store_hold(store: Store) -> None:
    """As an upload does: look at the sum, then add to it."""

    def keep(connection: Connection) -> bool:
        file = files.made("team-dx", "k", "batch", "x", 6, "s", None, "internal")
        fits = files.stored_bytes(connection, "team-dx") + file.bytes <= 10
        if fits:
            files.add(connection, file)
        return fits

    assert sorted(together(store, *[keep] * 3)) == [False, False, True]


def test_order_for_a_file_that_is_being_removed_is_refused(store: Store, home: Home) -> None:
    file = files.made("team-dx", "k", "fine-tune", "x", 6, "s", None, "internal")
    outcome(store, lambda connection: files.add(connection, file))
    asked = orders.Asked("faq", "base@1", file.id, None, "supervised", 1)
    who = Principal("k", "k", "engineer", "dx", team_id="team-dx")

    def submit() -> str:
        return orders.submit(
            store, home, asked, who, sensitivity="internal", metadata=None, by=SYSTEM,
            check=lambda connection: files.get(connection, who, file.id),
        ).id  # fmt: skip

    assert submit()
    assert outcome(store, lambda connection: files.remove(connection, file)) == "file_in_use"
    with store.write() as connection:
        jobs.cancel(connection, jobs.list_all(connection)[0].id)
        files.remove(connection, file)
    with pytest.raises(SumikaError, match="There is no file"):
        submit()
    assert len(list(home.runs.iterdir())) == 1, "nothing of it is left"


def test_secrets_of_rotations_that_meet_follow_each_other(store: Store) -> None:
    with store.write() as connection:
        _, key = keys.create(connection, "bot")
    secrets = together(store, *[lambda c: keys.rotate(c, key.id, timedelta(hours=1))[0]] * 3)
    with store.read() as connection:
        now = keys.get(connection, key.id)
    good = {now.hash, now.previous_hash}
    assert len(set(secrets)) == 3 and len({keys.hashed(secret) for secret in secrets} & good) == 2


def test_reader_sees_one_moment(store: Store) -> None:
    with closing(Store(url_of(store))) as other, store.read() as connection:
        before = revision(connection), len(keys.list_all(connection))
        outcome(other, lambda second: keys.create(second, "bot"))
        assert (revision(connection), len(keys.list_all(connection))) == before
    with store.read() as connection:
        assert len(keys.list_all(connection)) == before[1] + 1


@contextmanager
def database_set(url: str, **settings: str) -> Iterator[None]:
    """What new connections to the database begin with."""
    with closing(Store(url)) as admin, admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = admin.engine.url.database
        for setting, value in settings.items():
            connection.execute(text(f"alter database {name} set {setting} = '{value}'"))
        yield
        for setting in settings:
            connection.execute(text(f"alter database {name} reset {setting}"))


def test_isolation_that_the_server_begins_with_changes_nothing(postgres_url: str) -> None:
    with closing(Store(postgres_url)) as store:
        store.migrate()
        with database_set(postgres_url, default_transaction_isolation="serializable"):
            make: Act = lambda connection: keys.create(connection, "bot")[1].name  # noqa: E731
            assert together(store, *[make] * 8) == ["bot"] * 8


def test_database_that_takes_no_writes_says_so(postgres_url: str) -> None:
    with closing(Store(postgres_url)) as store:
        store.migrate()
    with database_set(postgres_url, default_transaction_read_only="on"), closing(Store(postgres_url)) as store:
        with store.read() as connection:
            assert keys.list_all(connection) == []
        with pytest.raises(SumikaError) as told, store.write() as connection:
            keys.create(connection, "bot")
        error = told.value
        assert (error.code, error.status, error.retry_after) == ("store_unavailable", 503, 5)
        assert "takes no writes" in error.en and "読み取り専用" in error.ja
        assert "INSERT INTO" not in error.en and "parameters hidden" in str(error.__cause__)
