"""What the roles log: one line an event, whatever stands in it; and logs of engines that don't fill the disk."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sumika.cli import logs
from sumika.cli.log_writer import BackgroundHandler
from sumika.models.settings import Settings
from sumika.serving import engine_logs

FORGED = 'x\r\n2026-01-01 00:00:00 E sumika: forged\x1b[31m"}\u2028{"level": "ERROR"'


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """A root logger of its own, as a role sets it up; what it wrote."""
    root = logging.getLogger()
    before = root.handlers, root.level
    root.handlers = []
    logs.log_to_stderr(Settings.model_validate({"log_format": request.param}))

    def written() -> str:
        root.handlers[0].flush()
        return capfd.readouterr().err

    yield written
    root.handlers, root.level = before[0], before[1]


@pytest.mark.parametrize("told", ["json"], indirect=True)
def test_event_is_one_object_with_what_it_names(told: Callable[[], str]) -> None:
    logging.getLogger("sumika.x").info("request %(request_id)s status=%(status)d", {"request_id": "req-1", "status": 200})
    event = json.loads(told())
    assert event.pop("time").startswith("20") and event == {
        "level": "INFO", "logger": "sumika.x", "message": "request req-1 status=200", "request_id": "req-1", "status": 200,
    }  # fmt: skip


@pytest.mark.parametrize("told", ["text", "json"], indirect=True)
def test_no_message_makes_a_second_event(told: Callable[[], str]) -> None:
    logging.getLogger("sumika").warning("removed %s", FORGED)
    lines = told().splitlines()
    assert len(lines) == 1 and "\x1b" not in lines[0]


@pytest.mark.parametrize("told", ["text", "json"], indirect=True)
def test_trace_of_an_error_belongs_to_its_event(told: Callable[[], str]) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("sumika").exception("it broke")
    text = told()
    lines = text.splitlines()
    assert "it broke" in lines[0] and "\x1b" not in text
    if lines[0].startswith("{"):
        assert len(lines) == 1 and "ValueError" in json.loads(lines[0])["exception"]
    else:
        assert len(lines) > 1 and all(line.startswith("    ") for line in lines[1:])


@pytest.fixture
def unread() -> Iterator[tuple[logging.Logger, BackgroundHandler, int]]:
    """A logger into a small pipe that nobody reads, and the pipe's other end."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    handler, logger = BackgroundHandler(write, most_waiting=20), logging.getLogger("unread")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    yield logger, handler, read
    logger.handlers = []


def test_log_that_nobody_reads_stops_nobody_and_says_later_what_is_missing(
    unread: tuple[logging.Logger, BackgroundHandler, int],
) -> None:
    logger, _, read = unread
    logging_ = threading.Thread(target=lambda: [logger.warning("line %03d %s", n, "x" * 1000) for n in range(100)], daemon=True)
    logging_.start()
    logging_.join(20)
    assert not logging_.is_alive(), "logging waited for a reader"
    text = ""
    while "line 101" not in text:
        if "dropped" in text:
            logger.warning("line 101")
        text += os.read(read, 65_536).decode()
    written = [int(line.split()[1]) for line in text.splitlines() if line.startswith("line ")]
    dropped = [int(line.split()[0]) for line in text.splitlines() if line.endswith("dropped, since nobody read it")]
    assert written[:3] == [0, 1, 2] and dropped
    assert len([n for n in written if n < 100]) + sum(dropped) == 100, "each line was written or counted"


def test_forked_process_logs_too(unread: tuple[logging.Logger, BackgroundHandler, int]) -> None:
    logger, handler, read = unread
    logger.warning("of the parent")
    handler.flush()
    if (child := os.fork()) == 0:
        logger.warning("of the child")
        handler.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 65_536) == b"of the parent\nof the child\n"


def test_log_that_is_too_long_is_turned_over_under_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_logs, "MOST_BYTES", 1_000)
    file = engine_logs.path(tmp_path, "e1")
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b"a" * 1_001)
    engine_logs.bound(tmp_path, ["e1"])
    os.write(fd, b"b")
    os.close(fd)
    assert file.read_bytes() == b"b"
    aside = tmp_path / "engine-e1.log.1"
    assert aside.read_bytes() == b"a" * 1_001 and aside.stat().st_mode & 0o777 == 0o600


def test_oldest_logs_of_engines_that_are_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_logs, "KEPT", 2)
    for number in range(5):
        file = engine_logs.path(tmp_path, f"e{number}")
        file.write_text("x")
        os.utime(file, (number, number))
    (tmp_path / "engine-e1.log.1").write_text("x")
    (tmp_path / "up.log").write_text("x")
    engine_logs.bound(tmp_path, ["e0"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine-e0.log", "engine-e3.log", "engine-e4.log", "up.log"]
