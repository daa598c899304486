"""`sumika usage` and `sumika limits`: sums by day of this machine, CSV that Excel opens and does not run."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sumika.cli import main
from sumika.models.audit import listing
from sumika.models.audit.listing import Filter
from sumika.models.bootstrap import open_store
from sumika.models.home import Home
from sumika.models.settings import Settings
from sumika.models.spreadsheet import as_csv
from sumika.models.store import Store
from sumika.models.usage import journal, report, table
from sumika.models.usage.report import Span
from sumika.models.usage.rows import UsageRow

SetZone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetZone]:
    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def row(number: int, at: str, **more: object) -> UsageRow:
    made = {
        "request": f"req-{number}", "at": f"{at}.000000Z", "key": "k1", "team": "sales", "alias": "faq", "version": "faq@1",
        "endpoint": "chat", "status": 200, "code": "", "partial": False, "prompt_tokens": 10, "cached_tokens": 4,
        "completion_tokens": 5, "reasoning_tokens": None, "first_ms": 20, "duration_ms": 40,
    }  # fmt: skip
    return UsageRow(**made | more)  # type: ignore[arg-type]


ROWS = [
    row(1, "2026-11-30T14:59:59"),  # 30 November in Tokyo
    row(2, "2026-11-30T15:00:00", first_ms=40),  # 1 December there
    row(3, "2026-12-01T03:00:00", status=499, partial=True, cached_tokens=None),
    row(4, "2026-12-01T04:00:00", team=None, alias="-", status=404, prompt_tokens=None, completion_tokens=None, first_ms=None),
]


def test_days_and_months_are_this_machines(store: Store, zone: SetZone) -> None:
    zone("Asia/Tokyo")
    with store.write() as connection:
        table.add(connection, ROWS)
    with store.read() as connection:
        told = report.sums(connection, ["day", "alias"], Span())
        assert [(r["day"], r["alias"], r["requests"], r["failed"], r["partial"], r["prompt_tokens"]) for r in told] == [
            ("2026-11-30", "faq", 1, 0, 0, 10), ("2026-12-01", "-", 1, 1, 0, 0), ("2026-12-01", "faq", 2, 1, 1, 20),
        ]  # fmt: skip
        assert told[2]["cached_tokens"] == 4 and told[2]["first_ms"] == 30 and told[1]["first_ms"] is None
        assert table.spent(connection, "2026-11") == {("key", "k1"): 15, ("team", "sales"): 15, ("alias", "faq"): 15}
        assert table.spent(connection, "2026-12")[("key", "k1")] == 30
        zone("UTC")
        assert [r["day"] for r in report.sums(connection, ["day"], Span())] == ["2026-11-30", "2026-12-01"]
        assert report.sums(connection, ["day"], Span())[0]["requests"] == 2


def test_a_day_with_25_hours_is_counted_once(store: Store, zone: SetZone) -> None:
    zone("Europe/Berlin")  # 25 October 2026 ends summer time
    with store.write() as connection:
        table.add(connection, [row(n, f"2026-10-{24 + (n + 21) // 24:02d}T{(n + 21) % 24:02d}:30:00") for n in range(28)])
    with store.read() as connection:
        told = {r["day"]: r["requests"] for r in report.sums(connection, ["day"], Span())}
    assert told == {"2026-10-24": 1, "2026-10-25": 25, "2026-10-26": 2}


def test_nothing_used_is_nothing_told(store: Store) -> None:
    with store.read() as connection:
        assert report.sums(connection, ["team", "day"], Span()) == report.sums(connection, [], Span()) == []


def test_csv_is_for_excel_and_runs_nothing() -> None:
    hostile = ["=1+1", "+1", "-1", "@x", "\tx", "\r=1", "＝1", "普通", None, 5, -5, 'a"b,c']
    data = as_csv(["名前"], [[cell] for cell in hostile])
    assert data.startswith(b"\xef\xbb\xbf") and b"\r\n" in data
    read = [line[0] if line else "" for line in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))]
    assert read == ["名前", "'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\r=1", "'＝1", "普通", "", "5", "-5", 'a"b,c']


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUMIKA_LANG", "en")

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(main.build(), list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return command


def test_usage_is_told_with_what_a_killed_gateway_left(run: Callable[..., str], tmp_path: Path) -> None:
    run("limits", "list")  # makes the home
    left = journal.create(Home(tmp_path / "home").usage, "dead")
    left.append(ROWS)
    left.close(remove=False)
    told = json.loads(run("usage", "--by", "key,status", "--json"))
    assert [(r["key"], r["status"], r["requests"]) for r in told["rows"]] == [("k1", 200, 2), ("k1", 404, 1), ("k1", 499, 1)]
    assert told["time_zone"] and "No requests" in run("usage", "--since", "2027-01-01")
    file = tmp_path / "usage.csv"
    run("usage", "--by", "team", "--csv", str(file))
    lines = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    assert [(line["team"], line["requests"]) for line in lines] == [("", "1"), ("sales", "3")]
    assert CliRunner().invoke(main.build(), ["usage", "--by", "nonsense"]).exception is not None


def test_limits_are_set_listed_and_cleared_and_the_audit_log_knows(run: Callable[..., str], tmp_path: Path) -> None:
    run("teams", "create", "sales")
    run("limits", "set", "team", "sales", "--requests-per-minute", "60", "--priority", "batch")
    run("limits", "set", "team", "sales", "--tokens-per-month", "1000000", "--priority", "0")
    (told,) = json.loads(run("limits", "list", "--json"))
    assert told == {
        "kind": "team", "name": "sales", "requests_per_minute": 60, "tokens_per_minute": None, "streams": None,
        "tokens_per_month": 1000000, "weight": None, "priority": None, "tokens_this_month": 0,
    }  # fmt: skip
    run("limits", "clear", "team", "sales")
    assert json.loads(run("limits", "list", "--json")) == []
    store = open_store(Settings(home=tmp_path / "home"))
    with store.read() as connection:
        rows = listing.find(connection, Filter(action="limits"), 10)
    assert [(r.action, r.object, r.outcome) for r in rows] == [
        ("limits.clear", "team:sales", "done"), ("limits.set", "team:sales", "done"), ("limits.set", "team:sales", "done"),
    ]  # fmt: skip
    store.close()
