"""A PostgreSQL that answers nothing and closes nothing: each wait has an end, and what comes after the first is refused at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import text

from sumika.models import keys, postgres, store
from sumika.models.errors import SumikaError
from sumika.models.store import Store, revision
from tests.silent_proxy import SilentProxy, silent_proxy

# Far more than any bound here, for machines that are busy.
_HANGS_S = 30


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.BoundedConnection, "answer_s", 1.0)
    monkeypatch.setattr(postgres, "ANSWER_S", 1.0)
    monkeypatch.setitem(postgres._LIBPQ, "connect_timeout", 2)
    monkeypatch.setattr(store, "_SILENT_S", 2.0)


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[SilentProxy]:
    with closing(Store(postgres_url)) as direct:
        direct.migrate()
    with silent_proxy(postgres_url) as made:
        yield made


def write(opened: Store, name: str = "bot") -> str:
    try:
        with opened.write() as connection:
            keys.create(connection, name)
    except SumikaError as error:
        assert error.status == 503 and "INSERT" not in error.en and "\n" not in error.en
        return error.code
    return "written"


def test_waits_end_and_the_database_is_used_again_once_it_answers(proxy: SilentProxy) -> None:
    with closing(Store(proxy.url)) as opened:
        assert write(opened) == "written"
        proxy.silent.set()
        began = time.monotonic()
        assert write(opened) == "store_unavailable"
        first = time.monotonic() - began
        with ThreadPoolExecutor(30) as pool:
            assert set(pool.map(lambda _: write(opened), range(200))) == {"store_unavailable"}
        assert first < _HANGS_S and time.monotonic() - began < _HANGS_S, "most are refused without asking"
        proxy.silent.clear()
        while write(opened, "after") != "written":
            assert time.monotonic() - began < 2 * _HANGS_S
            time.sleep(0.1)
        with opened.read() as connection:
            assert [key.name for key in keys.list_all(connection)] == ["bot", "after"], "what was refused was not done"


def test_first_connection_to_a_silent_database_ends_too(proxy: SilentProxy) -> None:
    proxy.silent.set()
    with closing(Store(proxy.url)) as opened, pytest.raises(SumikaError) as told:
        opened.migrate()
    assert told.value.code == "store_unavailable"


def test_statement_whose_answer_never_comes_ends(proxy: SilentProxy) -> None:
    with closing(Store(proxy.url)) as opened:
        began = time.monotonic()
        with pytest.raises(SumikaError) as told, opened.write(statement_s=1.0) as connection:
            proxy.silent.set()
            keys.create(connection, "bot")
        assert told.value.code == "store_unavailable" and time.monotonic() - began < _HANGS_S


def test_statement_that_takes_too_long_is_ended_by_the_server(postgres_url: str) -> None:
    with closing(Store(postgres_url)) as opened:
        with pytest.raises(SumikaError) as told, opened.read(statement_s=0.2) as connection:
            connection.execute(text("select pg_sleep(60)"))
        assert told.value.code == "store_unavailable" and "statement timeout" in told.value.en
        with opened.read(statement_s=60) as connection:
            connection.execute(text("select pg_sleep(2)"))  # longer than an idle connection may take to answer


def test_write_lock_that_another_holds_is_waited_for_only_so_long(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "LOCK_S", 0.3)
    with closing(Store(postgres_url)) as holder, closing(Store(postgres_url)) as other:
        holder.migrate()
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with holder.write():
                held.set()
                over.wait(_HANGS_S)

        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(hold)
            assert held.wait(_HANGS_S)
            assert write(other) == "store_unavailable"
            with other.read() as connection:
                assert revision(connection) == 0, "readers wait for nobody"
            over.set()
            holding.result()
        assert write(other) == "written"


def test_bounds_that_the_url_names_are_kept(postgres_url: str) -> None:
    made = postgres.engine(postgres_url + "&connect_timeout=3" if "?" in postgres_url else postgres_url + "?connect_timeout=3")
    with made.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, postgres.BoundedConnection)
        found = driver.info.get_parameters()
    made.dispose()
    assert found["connect_timeout"] == "3" and found["tcp_user_timeout"] == "15000"
