"""Units that `sumika install` writes: read by systemd's own tools, hardened, and never written over somebody's changes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sumika.cli import systemd
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings

HARDENED = {
    "User": "sumika", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "ProtectSystem": "strict", "PrivateTmp": "yes",
    "ProtectProc": "invisible", "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes", "ProtectKernelLogs": "yes", "ProtectControlGroups": "yes",
    "ProtectClock": "yes", "ProtectHostname": "yes", "RestrictNamespaces": "yes", "RestrictSUIDSGID": "yes", "RestrictRealtime": "yes", "LockPersonality": "yes",
    "SystemCallArchitectures": "native", "SystemCallFilter": "@system-service", "UMask": "0077", "StateDirectoryMode": "0700", "Restart": "always",
    "ReadWritePaths": "/var/lib/sumika",
}  # fmt: skip


def installed(root: Path, *, gpu: bool = True, **settings: str) -> dict[str, Path]:
    return {w.path.name: w.path for w in systemd.install(Settings.model_validate(settings), gpu=gpu, root=root)}


def told(unit: Path) -> dict[str, str]:
    """Settings of a unit, the last where one comes twice."""
    return dict(re.findall(r"^([A-Za-z]+)=(.*)$", unit.read_text(), re.MULTILINE))


@pytest.mark.parametrize("gpu", [True, False])
def test_systemd_reads_the_units_and_finds_them_hardened(tmp_path: Path, gpu: bool) -> None:
    paths = installed(tmp_path, gpu=gpu)
    units = [str(paths[name]) for name in (systemd.TARGET, *systemd.SERVICES)]
    verified = subprocess.run(
        ["/usr/bin/systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert verified.returncode == 0 and not verified.stderr, verified.stderr
    for name in systemd.SERVICES:  # 0 is without any right, 10 without any bound
        looked = subprocess.run(
            ["/usr/bin/systemd-analyze", "security", "--offline=true", "--threshold=25", str(paths[name])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert looked.returncode == 0, looked.stdout[-1_500:]


@pytest.mark.parametrize("name", systemd.SERVICES)
def test_each_service_has_each_bound(tmp_path: Path, name: str) -> None:
    unit = told(installed(tmp_path)[name])
    assert {key: unit.get(key) for key in HARDENED} == HARDENED
    assert "AF_PACKET" not in unit["RestrictAddressFamilies"]


def test_killed_supervisor_leaves_its_engines_and_an_engine_without_memory_takes_nobody_along(tmp_path: Path) -> None:
    unit = told(installed(tmp_path)["sumika-supervisor.service"])
    assert (unit["KillMode"], unit["OOMPolicy"], unit["IPAddressDeny"], unit["IPAddressAllow"]) == (
        "process",
        "continue",
        "any",
        "localhost",
    )


def test_gpu_is_for_those_who_need_it(tmp_path: Path) -> None:
    paths = installed(tmp_path, gpu=True)
    assert told(paths["sumika-gateway.service"])["PrivateDevices"] == "yes"
    for name in systemd.SERVICES[1:]:
        assert told(paths[name])["DevicePolicy"] == "closed" and "char-nvidia-uvm" in paths[name].read_text()


def test_database_elsewhere_is_all_that_engines_reach(tmp_path: Path) -> None:
    unit = installed(tmp_path / "a", database_url="postgresql+psycopg://u:p@10.1.2.3/sumika")["sumika-supervisor.service"]
    assert re.findall("^IPAddress.*", unit.read_text(), re.MULTILINE) == [
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
        "IPAddressAllow=10.1.2.3",
    ]
    unit = installed(tmp_path / "b", database_url="postgresql+psycopg://u:p@db.intern/sumika")["sumika-supervisor.service"]
    assert "IPAddressDeny" not in unit.read_text() and "name it by its address" in unit.read_text()


def test_written_again_nothing_changes_and_no_edit_is_lost(tmp_path: Path) -> None:
    paths = installed(tmp_path)
    assert (
        paths["sumika.yaml"].read_text().endswith("home: /var/lib/sumika\n")
        and paths["sumika.env"].stat().st_mode & 0o777 == 0o600
    )
    paths["sumika.yaml"].write_text("home: /srv/sumika\n")
    assert not any(written.fresh for written in systemd.install(Settings(), gpu=True, root=tmp_path))
    assert paths["sumika.yaml"].read_text() == "home: /srv/sumika\n"
    unit = paths["sumika-gateway.service"]
    unit.write_text(unit.read_text().replace("RestartSec=1", "RestartSec=9"))
    before = {path: path.read_text() for path in paths.values()}
    with pytest.raises(SumikaError, match=r"systemctl edit sumika-gateway\.service"):
        systemd.install(Settings(log_level="debug", gateway={"drain_timeout_s": 99}), gpu=False, root=tmp_path)
    assert {path: path.read_text() for path in paths.values()} == before
