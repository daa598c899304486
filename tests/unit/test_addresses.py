"""Addresses in settings and jobs: the plain spelling is taken, every other is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sumika.finetune.config import Track
from sumika.models import addresses
from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import check_url
from sumika.models.settings import load_settings

STRANGE = [
    "http://169.254.169.254", "http://169.254.169.254/latest/meta-data/", "http://169.254.169.254.", "http://0", "http://0.0.0.0",
    "http://2130706433/", "http://0x7f.1", "http://0x7f000001", "http://0177.0.0.1", "http://127.1", "http://1.2.3.4.5",
    "http://[::ffff:169.254.169.254]", "http://[::ffff:7f00:1]", "http://[64:ff9b::a9fe:a9fe]", "http://[fe80::1]", "http://[fe80::1%25eth0]",
    "http://[::]", "http://[fd00:ec2::254]", "http://100.100.100.200", "http://metadata.google.internal", "http://METADATA.google.internal/",
    "http://allowed@evil", "http://allowed:x@evil", "http://allowed\\@evil", "http://a\tb", "http://a\nb", "http://a b", " http://a", "http://a ",
    "http://a/%00", "http://a/%0d%0aHost:", "http://a%2eb", "http://a/%zz", "http://a:0", "http://a:65536", "http://a:99999", "http://a:+1",
    "http://ａ．example", "http://a。example", "http://\u2100", "http://a..b", "http://-a", "http://" + "a" * 64, "http://a#b", "http:a", "http:///a",
    "//a", "ftp://a", "file:///etc/passwd", "javascript:alert(1)", "http://a/\u200b", "http://224.0.0.1", "http://255.255.255.255", "",
]  # fmt: skip
PLAIN = [
    "http://127.0.0.1:5000", "http://localhost:5000/", "https://[::1]:4318", "http://mlflow:5000", "http://my_service.namespace.svc:80/x",
    "https://id.example.co.jp/realms/company", "http://10.1.2.3", "https://[2001:db8::1]/a-b_c~d/%E3%81%82", "https://EXAMPLE.co.jp",
]  # fmt: skip


@pytest.mark.parametrize("url", STRANGE)
def test_strange_address_is_refused_wherever_one_is_written(url: str, tmp_path: Path) -> None:
    for read in (addresses.parse, check_url, lambda text: Track(mlflow=text)):
        with pytest.raises(ValueError):
            read(url)
    for settings in ({"telemetry": {"otlp_endpoint": url}}, {"finetune": {"tracking": [{"name": "a", "url": url}]}}):
        (tmp_path / "sumika.yaml").write_text(json.dumps(settings))
        with pytest.raises(SumikaError):
            load_settings(tmp_path / "sumika.yaml")


@pytest.mark.parametrize("url", PLAIN)
def test_plain_address_is_taken(url: str) -> None:
    assert addresses.parse(url).url == url and Track(mlflow=url).mlflow == url


def test_issuer_is_https_but_on_this_machine() -> None:
    assert (
        check_url("http://[::1]:1/x") and check_url("https://login.example.jp/token?p=b2c") and check_url("http://127.0.0.1:1/")
    )
    with pytest.raises(ValueError, match="https://"):
        check_url("http://id.example.co.jp")


def test_names_of_servers_and_files_are_taken_as_track_mlflow() -> None:
    for text in ("company", "sqlite:////data/mlflow.db"):
        assert Track(mlflow=text).mlflow == text
    for text in ("sqlite://", "sqlite:////a?mode=ro", "sqlite:////a b", "a/b", "../x", "SQLITE:////x"):
        with pytest.raises(ValueError):
            Track(mlflow=text)


@pytest.mark.parametrize(
    ("root", "home"), [("{0}/home", "{0}/home"), ("{0}/home/data", "{0}/home"), ("{0}", "{0}/home"), ("{0}/x/../home/runs", "{0}/home"), ("{0}/link", "{0}/home")]
)  # fmt: skip
def test_folder_of_the_teams_data_lies_apart_from_home(tmp_path: Path, root: str, home: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    file = tmp_path / "sumika.yaml"
    file.write_text(f"home: {home.format(tmp_path)}\nfinetune: {{data_root: '{root.format(tmp_path)}'}}\n")
    with pytest.raises(SumikaError, match="data_root and home must lie apart"):
        load_settings(file)
    file.write_text(f"home: {home.format(tmp_path)}\nfinetune: {{data_root: '{tmp_path}/data'}}\n")
    assert load_settings(file).finetune.team_folders == tmp_path / "data"


def test_tracking_servers_have_names_of_their_own_and_one_kind_of_credentials(tmp_path: Path) -> None:
    file = tmp_path / "sumika.yaml"
    plain = {"name": "a", "url": "http://m"}
    for servers in (
        [plain, plain], [plain | {"username": "u"}], [plain | {"password_file": "p"}], [plain | {"name": "A B"}],
        [plain | {"token_file": "t", "username": "u", "password_file": "p"}], [plain | {"token": "secret"}],
    ):  # fmt: skip
        file.write_text(json.dumps({"finetune": {"tracking": servers}}))
        with pytest.raises(SumikaError):
            load_settings(file)
