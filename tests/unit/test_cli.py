"""The command line on a home of its own: what it prints for programs, what it tells people, and how it exits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sumika.cli import main, output
from sumika.cli.rest import own_key
from sumika.models import aliases, registry
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from sumika.models.settings import load_settings
from tests.conftest import ROOT, MakeAdapter, write_base


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUMIKA_LANG", "en")
    monkeypatch.setenv("COLUMNS", "400")


def run(*words: str) -> str:
    """A command that goes well; what it printed."""
    told = CliRunner().invoke(main.build(), words)
    assert told.exit_code == 0, told.output + repr(told.exception)
    return told.stdout


def said(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit code and stderr of a command that fails, by way of the real entry."""
    monkeypatch.setattr(sys, "argv", ["sumika", *words])
    with pytest.raises(SystemExit) as ended:
        main.main(alone=False)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return int(ended.value.code or 0), told


def deploy(alias: str, ref: str, reason: str = "") -> None:
    """As the supervisor would finish it."""
    store = open_store(load_settings())
    with store.write() as connection:
        version = registry.get(connection, VersionRef.parse(ref))
        aliases.finish(connection, aliases.ask_deploy(connection, alias, version, actor="me", reason=reason), None)
    store.close()


def test_models_come_show_verify_and_go(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    write_base(tmp_path / "base")
    assert said("models", "import", "base", str(tmp_path / "base"))["version"] == "base@1"
    assert said("models", "import", "faq", str(make_adapter()), "--base", "base@1", "--no-reference")["base"] == "base@1"
    assert [model["version"] for model in said("models", "list")] == ["base@1", "faq@1"]
    assert said("models", "verify", "faq@1") == {"version": "faq@1", "intact": True, "problems": []}
    deploy("faq", "faq@1")
    shown = said("models", "show", "faq@1")
    assert shown["aliases"] == ["faq"] and shown["moves"][0]["to"] == "faq@1"
    assert said("models", "list")[1]["aliases"] == ["faq"]
    assert (
        said("models", "import", "other", str(make_adapter("b", seed=2, proven=True)), "--base", "base@1")["version"] == "other@1"
    )
    folder = Path(said("models", "show", "other@1")["folder"])
    assert said("models", "remove", "other@1") == {"removed": "other@1"} and not folder.exists()


def test_verify_of_a_changed_version_exits_1_and_names_the_file(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    folder = Path(said("models", "import", "base", str(tmp_path / "base"))["folder"])
    (folder / "config.json").write_text("{}")
    told = CliRunner().invoke(main.build(), ["models", "verify", "base@1", "--json"])
    (problem,) = json.loads(told.stdout)["problems"]
    assert told.exit_code == 1 and (problem["file"], problem["kind"], problem["bytes_now"]) == ("config.json", "shorter", 2)
    assert "config.json: 2 of" in CliRunner().invoke(main.build(), ["models", "verify", "base@1"]).stdout


def test_keys_are_shown_once_listed_without_secret_and_revoked() -> None:
    made = said("keys", "create", "soumu-bot", "--alias", "faq", "--days", "30")
    assert made["key"].startswith("sk-sumika-") and made["aliases"] == ["faq"] and "hash" not in made
    listed = said("keys", "list")
    assert {key["name"] for key in listed} == {"admin", "soumu-bot"} and made["key"] not in json.dumps(listed)
    assert all("hash" not in key for key in listed)
    assert said("keys", "revoke", made["id"])["revoked_at"]
    assert made["key"] not in run("keys", "list")


def test_admin_key_is_made_once_private_and_no_longer_changed(tmp_path: Path) -> None:
    run("keys", "list")
    path = tmp_path / "home" / "admin.key"
    secret = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    run("keys", "list")
    assert path.read_text() == secret
    assert secret.strip().encode() not in (tmp_path / "home" / "sumika.db").read_bytes()


def test_key_of_the_environment_goes_before_the_admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    run("keys", "list")
    monkeypatch.setenv("SUMIKA_API_KEY", "sk-sumika-mine")
    assert own_key(load_settings()) == "sk-sumika-mine"


def test_canary_promote_abort_and_scale_by_command(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    write_base(tmp_path / "base")
    run("models", "import", "base", str(tmp_path / "base"))
    for seed in (1, 2):
        run("models", "import", "faq", str(make_adapter(f"a{seed}", seed=seed)), "--base", "base@1", "--no-reference")
    deploy("faq", "faq@1")
    asked = said("deploy", "faq", "faq@2", "--canary", "10", "--reason", "a try", "--no-wait")
    assert (asked["kind"], asked["share"], asked["state"], asked["from"], asked["to"]) == ("canary", 10, "open", "faq@1", "faq@2")
    aborted = said("abort", "faq", "--reason", "not yet")
    assert aborted["state"] == "refused" and "not yet" in aborted["error"]["en"]
    store = open_store(load_settings())
    with store.write() as connection:
        version = registry.get(connection, VersionRef("faq", 2))
        aliases.finish(connection, aliases.ask_canary(connection, "faq", version, 10, actor="me", reason=""), None)
    store.close()
    assert said("status")["aliases"][0]["canary"] == {"version": "faq@2", "share": 10} and "10 % faq@2" in run("status")
    assert said("promote", "faq", "--no-wait")["to"] == "faq@2"
    run("abort", "faq")
    assert "faq@1" in run("abort", "faq") and said("status")["aliases"][0]["canary"] is None
    assert said("scale", "base", "2") == {"base": "base", "replicas": 2}


def test_undeploy_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    write_base(tmp_path / "base")
    run("models", "import", "base", str(tmp_path / "base"))
    deploy("talk", "base@1")
    deploy("other", "base@1")
    run("limits", "set", "alias", "talk", "--streams", "3")
    asked = said("deploy", "talk", "base@1", "--no-wait")
    status, told = fails(monkeypatch, capsys, "undeploy", "talk")
    assert status != 0 and "sumika abort talk" in told and asked["state"] == "open"
    run("abort", "talk")
    assert said("undeploy", "talk", "--reason", "nobody asks it") == {"alias": "talk", "version": "base@1"}
    assert [alias["alias"] for alias in said("status")["aliases"]] == ["other"] and said("limits", "list") == []
    (row,) = said("audit", "list", "--action", "alias.remove", "--object", "talk")[:1]
    assert (row["outcome"], row["reason"], row["details"]) == ("done", "nobody asks it", {"version": "base@1"})
    status, told = fails(monkeypatch, capsys, "undeploy", "talk")
    assert status != 0 and "talk" in told
    assert "other is removed" in run("undeploy", "other")


def test_status_of_an_empty_and_of_a_serving_home(tmp_path: Path) -> None:
    assert said("status") == {"aliases": [], "engines": [], "moves": []}
    assert "sumika deploy" in run("status")
    write_base(tmp_path / "base")
    run("models", "import", "base", str(tmp_path / "base"))
    deploy("talk", "base@1")
    told = said("status")
    assert told["aliases"][0] | {"moved_at": ""} == {
        "alias": "talk",
        "version": "base@1",
        "generation": 1,
        "moved_at": "",
        "canary": None,
    }
    assert told["moves"][0]["state"] == "done"


@pytest.mark.parametrize(
    "reason", ["[/]", "[bold]", "[red]x[/red]", "\x1b[31mred\x1b[0m", "a\nb", "[link=x]", "\\[", "日本語の理由"]
)
def test_text_of_others_is_shown_as_it_is(tmp_path: Path, reason: str) -> None:
    write_base(tmp_path / "base")
    run("models", "import", "base", str(tmp_path / "base"))
    deploy("talk", "base@1", reason)
    told = run("status")
    assert "\x1b" not in told
    if reason.isprintable():
        assert reason in told


def test_move_that_is_not_waited_for_is_told_as_asked(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    run("models", "import", "base", str(tmp_path / "base"))
    assert said("deploy", "talk", "base@1", "--no-wait", "--reason", "first")["state"] == "open"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("models", "show", "nothing@1"), 66, "no version 'nothing@1'"),
        (("models", "show", "nothing"), 1, "NAME@N"),
        (("models", "import", "x", "/nowhere"), 1, "not a folder"),
        (("models", "import", "[/x]", "configs"), 1, "can't be a name"),
        (("models", "import", "x", "/nowhere.gguf"), 1, "no file"),
        (("models", "pull", "nothing"), 66, "gemma-3-270m"),
        (("deploy", "talk", "nothing@1"), 66, "no version"),
        (("rollback", "talk"), 66, "no alias"),
        (("keys", "create", "Ａ"), 1, "can't be a name"),
        (("keys", "create", "x", "--role", "root"), 1, "is not one of admin, engineer, app"),
        (("keys", "revoke", "nothing"), 66, "no key"),
        (("chat", "talk", "--json"), 1, "needs a question"),
    ],
)  # fmt: skip
def test_command_that_fails_says_so_in_a_sentence_with_its_code(
    words: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, told = fails(monkeypatch, capsys, *words)
    assert (ended, said in told) == (code, True), told


def test_command_speaks_japanese_where_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SUMIKA_LANG", "ja")
    ended, told = fails(monkeypatch, capsys, "models", "show", "nothing@1")
    assert ended == 66 and "ありません" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [("SUMIKA_PORT", "abc"), ("SUMIKA_PORT", "0"), ("SUMIKA_PRT", "1"), ("SUMIKA_ENGINE__COMMAND", "not json"), ("SUMIKA_ENGINE", "x"),
     ("SUMIKA_ENGINE", '{"max_lora": 1}'), ("SUMIKA_ENGINE__MAX_LORAS", "0"), ("SUMIKA_ENGINE__STOP_TIMEOUT_S", "inf"),
     ("SUMIKA_GATEWAY__DRAIN_TIMEOUT_S", "nan"), ("SUMIKA_CONFIG", "/nowhere.yaml"), ("SUMIKA_ENGINE__COMMAND", "[]")],
)  # fmt: skip
def test_setting_that_cannot_be_is_told_and_exits_78(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    ended, told = fails(monkeypatch, capsys, "status")
    assert ended == 78, told


def test_gateway_that_does_not_run_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.integration.conftest import free_port

    run("keys", "list")
    monkeypatch.setenv("SUMIKA_PORT", str(free_port()))
    ended, told = fails(monkeypatch, capsys, "chat", "talk", "hello")
    assert ended == 1 and "sumika up" in told


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [({"SUMIKA_LANG": "ja"}, "ja"), ({"LC_ALL": "ja_JP.UTF-8"}, "ja"), ({"LANG": "ja_JP.UTF-8"}, "ja"), ({"LANG": "C"}, "en"), ({}, "en"),
     ({"SUMIKA_LANG": "en", "LANG": "ja_JP.UTF-8"}, "en")],
)  # fmt: skip
def test_language_is_the_persons_own(variables: dict[str, str], speaks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUMIKA_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert output.language() == speaks


def test_error_shown_keeps_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    output.fail(SumikaError("x", "see [/x] and [bold]", "y"))
    assert "see [/x] and [bold]" in capsys.readouterr().err
