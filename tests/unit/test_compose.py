"""The compose file as Compose itself reads it: each bound on each service, one port, no way out, nothing secret in plain sight."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

PROFILES = ("cpu", "monitoring", "webui")
USERS = {
    "caddy": "10002:10002", "gateway": "10001:10001", "supervisor": "10001:10001", "worker": "10001:10001", "supervisor-cpu": "10001:10001",
    "worker-cpu": "10001:10001", "postgres": "999:999", "valkey": "999:999", "prometheus": "65534:65534", "grafana": "472:0", "webui": "10003:10003",
}  # fmt: skip
INSIDE = ("data", "front", "watch")
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


def composed(*profiles: str) -> dict[str, Any]:
    """What `docker-compose config` (Debian's, which needs no daemon) makes of the file."""
    command = ["/usr/bin/docker-compose", "--project-directory", str(ROOT), "-f", str(ROOT / "docker-compose.yml")]
    told = subprocess.run(
        [*command, *(f"--profile={name}" for name in profiles), "config"], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    made: dict[str, Any] = yaml.safe_load(told.stdout)
    return made


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    return composed(*PROFILES)


@pytest.mark.parametrize("profiles", [(), *((name,) for name in PROFILES)])
def test_file_is_read_with_each_profile(profiles: tuple[str, ...]) -> None:
    assert composed(*profiles)["services"].keys() <= USERS.keys()


def test_every_service_is_here(everything: dict[str, Any]) -> None:
    assert everything["services"].keys() == USERS.keys()


@pytest.mark.parametrize("name", USERS)
def test_service_is_bounded(everything: dict[str, Any], name: str) -> None:
    service = everything["services"][name]
    assert service["user"] == USERS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert 0 < service["pids_limit"] <= 8192
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["healthcheck"]["test"][0] == "CMD" and len(service["healthcheck"]["test"]) > 1
    for forbidden in (
        "privileged",
        "network_mode",
        "pid",
        "ipc",
        "devices",
        "cgroup_parent",
        "userns_mode",
        "env_file",
        "extra_hosts",
        "dns",
    ):
        assert forbidden not in service, forbidden


@pytest.mark.parametrize("name", USERS)
def test_image_has_a_version(everything: dict[str, Any], name: str) -> None:
    image, _, digest = everything["services"][name]["image"].partition("@")
    _, _, tag = image.rpartition(":")
    assert not digest or re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert tag == "local" if "build" in everything["services"][name] else re.match(r"v?\d+\.\d+", tag)


@pytest.mark.parametrize("name", USERS)
def test_only_caddy_meets_the_world(everything: dict[str, Any], name: str) -> None:
    service = everything["services"][name]
    assert ("ports" in service) == ("edge" in service["networks"]) == (name == "caddy")
    if name == "caddy":
        assert service["ports"] == [{"published": 443, "target": 8443}]
    assert set(service["networks"]) <= {*INSIDE, "edge"}


def test_every_network_but_caddys_own_is_internal(everything: dict[str, Any]) -> None:
    assert {name: bool((told or {}).get("internal")) for name, told in everything["networks"].items()} == {
        **dict.fromkeys(INSIDE, True),
        "edge": False,
    }


def test_engines_and_database_share_no_network_with_caddy(everything: dict[str, Any]) -> None:
    services = everything["services"]
    for name in ("supervisor", "worker", "supervisor-cpu", "worker-cpu", "postgres", "valkey"):
        assert set(services[name]["networks"]) == {"data"}
    assert "data" not in services["caddy"]["networks"] and "data" not in services["webui"]["networks"]


@pytest.mark.parametrize("name", USERS)
def test_nothing_secret_stands_in_the_environment(everything: dict[str, Any], name: str) -> None:
    for variable, value in (everything["services"][name].get("environment") or {}).items():
        if re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
            assert variable.endswith(("_FILE", "__FILE")), variable
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{variable} holds a password"


@pytest.mark.parametrize("name", USERS)
def test_of_the_host_only_files_of_ours_are_seen_and_none_is_written(everything: dict[str, Any], name: str) -> None:
    for volume in everything["services"][name].get("volumes", ()):
        source, _, rest = str(volume).partition(":")
        if source.startswith("/"):
            assert source.startswith(f"{ROOT}/deploy/") and rest.endswith(":ro"), volume
        else:
            assert source in everything["volumes"], volume


def test_gpus_are_for_engines_and_trainings_alone(everything: dict[str, Any]) -> None:
    having = {name for name, told in everything["services"].items() if "reservations" in told["deploy"]["resources"]}
    assert having == {"supervisor", "worker"}


def test_who_is_asked_to_go_is_given_the_time_it_takes(everything: dict[str, Any]) -> None:
    seconds = {
        name: told.get("stop_grace_period") for name, told in everything["services"].items() if told["image"].startswith("sumika")
    }
    assert seconds == {"gateway": "60s", "supervisor": "90s", "worker": "180s", "supervisor-cpu": "90s", "worker-cpu": "180s"}


def test_settings_mounted_into_the_services_are_good() -> None:
    from sumika.models.settings import load_settings

    settings = load_settings(ROOT / "deploy" / "docker" / "sumika.yaml")
    assert (settings.host, settings.port, settings.log_format) == ("0.0.0.0", 8000, "json")
    assert settings.gateway.limits_url == "redis://valkey:6379/0"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def test_image_installs_by_hash_and_runs_as_nobody_in_particular() -> None:
    told = instructions()
    assert "ADD" not in {word for word, _ in told}
    assert [rest for word, rest in told if word == "USER"] == ["10001:10001"]
    after = [word for word, _ in told[[word for word, _ in told].index("USER") :]]
    assert not {"RUN", "COPY"} & set(after), "nothing is put into the image once it is somebody's"
    runs = [rest for word, rest in told if word == "RUN"]
    assert any("--require-hashes" in run and "constraints/${ENGINE}.txt" in run for run in runs)
    assert not any(re.search(r"https?://|curl|wget|chmod 777", run) for run in runs)
    assert all(re.search(r":\d", rest.split()[0]) or "PYTHON_IMAGE" in rest for word, rest in told if word == "FROM")
    assert any("--require-hashes --requirement constraints/tools.txt" in run for run in runs)


def test_secrets_are_made_once_and_only_for_their_owner(tmp_path: Path) -> None:
    script = tmp_path / "prepare.sh"
    script.write_text((ROOT / "deploy" / "docker" / "prepare.sh").read_text())
    for _ in range(2):
        told = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, timeout=30, check=False)
        assert told.returncode == 0, told.stderr
        made = {
            file.name: (file.read_text(), file.stat().st_mode & 0o777)
            for file in (tmp_path / "secrets").iterdir()
            if file.is_file()
        }
        password = made["postgres_password"][0].strip()
        assert made["pgpass"] == (f"postgres:5432:sumika:sumika:{password}\n", 0o600) and len(password) >= 32
        assert {mode for _, mode in made.values()} == {0o600} and made["grafana_password"][0] != made["postgres_password"][0]
        assert "server.crt" in told.stdout
    assert made["postgres_password"][0].strip() == password


def test_loaded_images_go_by_their_tags() -> None:
    command = ["/usr/bin/docker-compose", "--project-directory", str(ROOT), "-f", str(ROOT / "docker-compose.yml")]
    command += ["-f", str(ROOT / "deploy" / "docker" / "loaded.yml"), *(f"--profile={name}" for name in PROFILES), "config"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "@sha256" not in told.stdout and "postgres:16.10-bookworm" in told.stdout
