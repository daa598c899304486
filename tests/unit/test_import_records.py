"""Imports of the console: every worker tells of them, one runs at a time, and one whose process died is known to have."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.imports import Imports


def test_other_worker_tells_how_far_it_is_and_begins_no_second(home: Home) -> None:
    one, other = Imports(home), Imports(home)
    begun, lock = one.begin("a.sumika", "faq", "admin")
    one.keep(replace(begun, done=5, total=10))
    assert [(seen.state, seen.done, seen.total) for seen in other.list_all()] == [("running", 5, 10)]
    with pytest.raises(SumikaError) as refused:
        other.begin("b.sumika", "faq", "admin")
    assert refused.value.code == "import_running" and "a.sumika" in refused.value.en
    one.keep(replace(begun, state="done", version="faq@1"))
    os.close(lock)
    second, lock = other.begin("b.sumika", "faq", "admin")
    os.close(lock)
    assert [seen.id for seen in one.list_all()] == [second.id, begun.id], "newest first"


def test_child_holds_the_lock_for_as_long_as_it_lives(home: Home) -> None:
    imports = Imports(home)
    begun, lock = imports.begin("a", "faq", "admin")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert imports.list_all()[0].state == "running"
    child.kill()
    child.communicate()
    died = Imports(home).list_all()[0]
    assert died.id == begun.id and died.state == "failed" and died.error is not None and "異常終了" in died.error["ja"]
    _, lock = imports.begin("b", "faq", "admin")
    os.close(lock)


def test_last_ones_are_kept(home: Home) -> None:
    imports = Imports(home)
    for n in range(25):
        begun, lock = imports.begin(f"s{n}", "faq", "admin")
        imports.keep(replace(begun, state="done"))
        os.close(lock)
    assert [one.source for one in imports.list_all()] == [f"s{n}" for n in range(24, 4, -1)]
    assert len(list(home.imports.glob("*.json"))) == 20
