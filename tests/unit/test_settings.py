from __future__ import annotations

from pathlib import Path

import pytest

from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.settings import Settings, load_settings
from tests.conftest import ROOT


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sumika.yaml"
    path.write_text(text)
    return path


def test_shipped_file_is_valid_and_says_the_defaults() -> None:
    shipped = load_settings(ROOT / "configs" / "sumika.yaml")
    assert shipped == Settings()


def test_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "port: 1234\nengine: {max_loras: 2, max_lora_rank: 32}\n")
    monkeypatch.setenv("SUMIKA_PORT", "9999")
    monkeypatch.setenv("SUMIKA_ENGINE__MAX_LORAS", "7")
    settings = load_settings(path)
    assert (settings.port, settings.engine.max_loras, settings.engine.max_lora_rank) == (9999, 7, 32)


def test_unknown_keys_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SumikaError) as told:
        load_settings(write(tmp_path, "prot: 1\nengine:\n  max_lora: 3\n"))
    assert (
        "did you mean 'port'" in told.value.en
        and "line 3: unknown key 'engine.max_lora'; did you mean 'engine.max_loras'" in told.value.en
    )


def test_unknown_variable_is_refused_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMIKA_PROT", "1")
    with pytest.raises(SumikaError, match="SUMIKA_PROT; did you mean SUMIKA_PORT"):
        load_settings(write(tmp_path, "{}"))


@pytest.mark.parametrize("url", ["postgresql://u:postgres@h/d", "postgresql://u:changeme@h/d", "mysql://h/d", "nonsense"])
def test_database_url_with_a_default_password_or_of_another_kind_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SumikaError, match="database_url"):
        load_settings(write(tmp_path, f"database_url: '{url}'\n"))


@pytest.mark.parametrize(
    "url",
    [
        "collector:4318", "grpc://collector:4317", "http://", "http://user:password@collector:4318", "http://token@collector:4318",
        "http://collector:4318?key=1", "http://collector:4318#x", "http://collector:4318/v1/traces", "http://collector:4318/v1/traces/",
        "http://col lector:4318", "http://collector:99999", "http://collector:0", "http://[::g]:4318", "http://収集:4318", "", "http://c\\nx",
    ],
)  # fmt: skip
def test_collector_that_is_no_plain_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SumikaError, match=r"telemetry\.otlp_endpoint"):
        load_settings(write(tmp_path, f'telemetry: {{otlp_endpoint: "{url}"}}\n'))


@pytest.mark.parametrize(
    ("url", "traces"),
    [
        ("http://collector.example.co.jp:4318", "http://collector.example.co.jp:4318/v1/traces"),
        ("https://[::1]:4318/", "https://[::1]:4318/v1/traces"),
        ("https://o11y.example.co.jp/otlp", "https://o11y.example.co.jp/otlp/v1/traces"),
    ],
)
def test_collectors_address_gets_the_path_of_traces(tmp_path: Path, url: str, traces: str) -> None:
    assert load_settings(write(tmp_path, f"telemetry: {{otlp_endpoint: '{url}'}}\n")).telemetry.traces_url == traces


def test_collector_is_set_by_the_environment_too_and_is_none_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(write(tmp_path, "{}")).telemetry.traces_url is None
    monkeypatch.setenv("SUMIKA_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert load_settings(write(tmp_path, "{}")).telemetry.traces_url == "http://127.0.0.1:4318/v1/traces"


def test_sockets_of_a_deep_home_still_fit(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("d" * 120))
    deep.create()
    assert len(str(deep.sockets / "engine-0123456789abcdef.sock")) <= 107
    assert deep.sockets.stat().st_mode & 0o777 == 0o700
