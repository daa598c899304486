"""`sumika audit`, and that every command that changes or hands out something leaves its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sumika.cli import main
from sumika.cli.context import actor
from sumika.models.bootstrap import open_store
from sumika.models.settings import load_settings
from tests.conftest import ROOT, MakeAdapter, write_base


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUMIKA_LANG", "en")
    monkeypatch.setenv("COLUMNS", "400")


def run(*words: str, code: int = 0) -> str:
    told = CliRunner().invoke(main.build(), words)
    assert told.exit_code == code, told.output + repr(told.exception)
    return told.stdout


def said(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code))


def refused(*words: str) -> None:
    assert CliRunner().invoke(main.build(), words).exit_code != 0


def acts(**wanted: str) -> list[tuple[str, str, str, str]]:
    """(actor, action, object, outcome), oldest first, without the first start's own and those of this very looking."""
    options = [word for name, value in wanted.items() for word in (f"--{name}", value)]
    found = said("audit", "list", "--limit", "1000", *options)
    told = [row for row in found[::-1] if row["actor"] != "system" and row["action"] != "audit.search"]
    return [(row["actor"], row["action"], row["object"], row["outcome"]) for row in told]


def test_every_act_of_the_command_line_leaves_its_rows(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    write_base(tmp_path / "base")
    run("models", "import", "base", str(tmp_path / "base"))
    run("models", "import", "faq", str(make_adapter()), "--base", "base@1", "--no-reference")
    refused("models", "import", "faq", str(tmp_path / "none"))
    run("deploy", "faq", "base@1", "--no-wait", "--reason", "first")
    refused("deploy", "faq", "base@1", "--no-wait")  # a move is open
    run("abort", "faq")
    refused("rollback", "faq")
    refused("promote", "faq")
    run("scale", "base", "2")
    refused("scale", "base", "99")
    key = said("keys", "create", "bot")["id"]
    run("keys", "revoke", key)
    refused("keys", "revoke", "nope")
    run("models", "export", "base@1", str(tmp_path / "base.sumika"))
    refused("models", "export", "base@1", str(tmp_path / "base.sumika"))
    run("signing", "trust", run("signing", "show").strip(), "self")
    run("models", "remove", "faq@1")
    refused("models", "remove", "faq@1")
    refused("models", "pull", "nope")
    assert {one[0] for one in acts()} == {actor()} and actor().startswith("cli:")
    searches = 1
    assert [one[1:] for one in acts()] == [
        ("model.import", "base@1", "done"), ("model.import", "faq@1", "done"), ("model.import", "faq", "refused"),
        ("alias.deploy", "faq", "asked"), ("alias.deploy", "faq", "refused"), ("alias.abort", "faq", "done"),
        ("alias.deploy", "faq", "refused"), ("alias.rollback", "faq", "refused"), ("alias.promote", "faq", "refused"),
        ("base.scale", "base", "done"), ("base.scale", "base", "refused"),
        ("key.create", key, "done"), ("key.revoke", key, "done"), ("key.revoke", "nope", "refused"),
        ("model.export", "base@1", "asked"), ("model.export", "base@1", "done"),
        ("model.export", "base@1", "asked"), ("model.export", "base@1", "refused"),
        ("signing.trust", "self", "asked"), ("signing.trust", "self", "done"),
        ("model.remove", "faq@1", "done"), ("model.remove", "faq@1", "refused"),
        ("model.pull", "nope", "asked"), ("model.pull", "nope", "refused"),
    ]  # fmt: skip
    first = said("audit", "list", "--limit", "1", "--action", "key", "--object", key, "--until", "2100-01-01")
    assert first[0]["action"] == "key.revoke" and first[0]["role"] == "operator"
    found, searches = said("audit", "verify"), searches + 2
    assert found["ok"] and found["unsigned"] == 0 and found["rows"] == len(acts()) + 1 + searches


def test_verify_names_the_row_and_exits_1(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        run("keys", "create", name)
    assert "Rows 1 to 4 are as they were written (4 checkpoints, 0 rows since the last)." in run("audit", "verify")
    store = open_store(load_settings())
    with store.engine.connect() as connection:
        connection.exec_driver_sql("drop trigger audit_no_update")
        connection.exec_driver_sql("update audit set details = replace(details, '\"b\"', '\"x\"')")
        connection.commit()
    store.close()
    assert said("audit", "verify", code=1)["bad"]["seq"] == 3
    told = CliRunner(env={"SUMIKA_LANG": "ja"}).invoke(main.build(), ["audit", "verify"])
    assert told.exit_code == 1 and "行 3 が記録時の内容と異なります" in told.output
    refused("audit", "prune", "--keep-years", "1")


def test_export_and_prune_are_told_and_verify(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run("keys", "create", name)
    assert said("audit", "prune", "--keep-years", "1")["pruned"] == 0
    assert said("audit", "prune", "--before", "2100-01-01")["pruned"] == 3
    assert said("audit", "export", str(tmp_path / "log.jsonl")) == {"file": str(tmp_path / "log.jsonl"), "rows": 3}
    for where in ([], ["--file", str(tmp_path / "log.jsonl")]):
        told = run("audit", "verify", *where)
        assert "Pruned: rows up to 3, by cli:" in told and "as they were written" in told
    assert [one[1:] for one in acts()] == [("audit.prune", "rows", "done"), ("audit.export", "log.jsonl", "asked"), ("audit.export", "log.jsonl", "done")]  # fmt: skip
    for wrong in (["prune"], ["prune", "--before", "soon"], ["prune", "--before", "2020-01-01", "--keep-years", "3"],
                  ["verify", "--file", str(tmp_path / "none")], ["export", str(tmp_path / "none" / "x")], ["open", "1", "--key", "none"]):  # fmt: skip
        refused("audit", *wrong)


def test_keygen_makes_a_pair_that_the_settings_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("audit", "keygen", str(tmp_path / "k"))
    monkeypatch.setenv("SUMIKA_AUDIT__INFERENCE", "content")
    refused("audit", "list")  # contents without a key to seal them to
    monkeypatch.setenv("SUMIKA_AUDIT__CONTENT_KEY", str(tmp_path / "k.pub"))
    assert load_settings().audit.content_key == tmp_path / "k.pub"
    refused("audit", "open", "1", "--key", str(tmp_path / "k"))
    assert acts()[-1][1:] == ("audit.open", "1", "refused")
