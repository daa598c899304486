"""A loop that fails twenty times a second logs its trouble once a minute."""

from __future__ import annotations

import logging

import pytest

from sumika.models import outage_log
from sumika.models.errors import SumikaError
from sumika.models.outage_log import OutageLog


def test_outage_is_logged_when_it_begins_once_a_minute_and_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(outage_log.time, "monotonic", lambda: now)
    caplog.set_level(logging.INFO)
    outage = OutageLog(logging.getLogger("sumika.test"), "work waits")
    outage.worked()
    for _ in range(1250):  # a bit over a minute
        outage.failed(SumikaError("store_unavailable", "It is away.", "応答しません。"))
        now += 0.05
    outage.worked()
    outage.worked()
    assert [record.getMessage() for record in caplog.records] == [
        "work waits: It is away.", "work waits: It is away.", "work waits: works again after 62 s",
    ]  # fmt: skip
