"""A database file that holds what nobody wrote: every command says so and what to do, or works; nothing ends in a traceback."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest
from sqlalchemy import select

from sumika.models import keys, schema
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from tests.conftest import ROOT

FLIPS = 200
# https://sqlite.org/fileformat.html, "The Database Header"
_HEADER_BYTES, _WRITE_VERSION = 100, 18


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with some keys and a log of them, in one file."""
    settings = Settings(home=tmp_path_factory.mktemp("whole") / "home")
    store = open_store(settings)
    for number in range(20):
        with store.write() as connection:
            keys.create(connection, f"key-{number}")
    store.close()
    with sqlite.connect(settings.layout.database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return settings.layout.database.read_bytes()


def laid(home: Path, contents: bytes) -> Settings:
    settings = Settings(home=home)
    settings.layout.create()
    settings.layout.database.write_bytes(contents)
    return settings


def use(settings: Settings) -> None:
    """Read every row, as the commands do one by one, and write one."""
    store = open_store(settings)
    try:
        store.check()
        with store.read() as connection:
            for table in schema.metadata.sorted_tables:
                connection.execute(select(table)).all()
        with store.write() as connection:
            keys.create(connection, "another")
    finally:
        store.close()


def test_flipped_bit_anywhere_is_told_or_harmless(tmp_path: Path, whole: bytes) -> None:
    chance, told = random.Random(22), 0
    for number in range(FLIPS):
        place = chance.randrange(_HEADER_BYTES if number % 4 == 0 else len(whole))
        broken = bytearray(whole)
        broken[place] ^= 1 << chance.randrange(8)
        try:
            use(laid(tmp_path / str(number), bytes(broken)))
        except SumikaError as error:
            if place == _WRITE_VERSION:
                continue  # a file of a newer SQLite, which this one reads and does not write: "readonly"
            assert error.code == "broken_database", f"byte {place}: {error}"
            assert "sumika restore" in error.en and "sumika restore" in error.ja
            told += 1
    assert told > FLIPS / 20, "flips in the header and in pages' heads are seen"


@pytest.mark.parametrize("wrong", ["zeros", "half", "text"])
def test_start_is_refused_with_what_to_do(tmp_path: Path, whole: bytes, wrong: str) -> None:
    middle = len(whole) // 2
    contents = {
        "zeros": whole[:middle] + bytes(4096) + whole[middle + 4096 :], "half": whole[:middle], "text": b"hello " * 4096,
    }[wrong]  # fmt: skip
    laid(tmp_path / "home", contents)
    command = [sys.executable, "-m", "sumika.cli.main", "up"]
    environment = {"SUMIKA_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "LANG": "en_US.UTF-8"}
    started = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert started.returncode == 1, started.stderr
    assert "is damaged" in started.stderr and "sumika restore FILE" in started.stderr and "Traceback" not in started.stderr
    told = subprocess.run([*command[:-1], "doctor"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "is damaged" in " ".join(told.stdout.split()) or wrong == "zeros", "doctor reads it as far as it must"
    assert (tmp_path / "home" / "sumika.db").read_bytes()[: len(contents)] == contents, "what is left of it is left alone"
