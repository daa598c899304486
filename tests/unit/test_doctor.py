"""Each check of `sumika doctor`: fine where all is well, and what it says where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from sumika.cli import main
from sumika.cli.checkup import counters, database, device, disk, duty, exposure, kernel, records, secrecy, software, weights
from sumika.cli.checkup.finding import Finding
from sumika.models import clock, upgrades
from sumika.models.home import Home
from sumika.models.store import Store, alembic_config
from sumika.serving.machine import Gpu

GIB = 2**30
NOW = datetime(2026, 11, 24, tzinfo=UTC)
SOON, PAST = (clock.spell(NOW + timedelta(minutes=by)) for by in (1, -10))
SAFE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
MOUNTS = (
    "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "30 22 0:5 / /srv/models rw - nfs4 nas:/models rw\n"
    "31 22 8:2 / /srv/models\\040old rw - xfs /dev/sdb1 rw\n"
    "32 22 8:3 / /srv/住処 rw - xfs /dev/sdc1 rw\n"
    "33 30 0:6 / /srv/models rw - ext4 /dev/sdd1 rw\n"
    "34 22 0:7 / /mnt/nas rw shared:5 - nfs4 nas:/x rw\n"
)


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (software.python(0), "ok", ""),
        (software.python(2), "warn", "PYTHONOPTIMIZE"),
        (software.sqlite((3, 51, 3)), "ok", "3.51.3"),
        (software.sqlite((3, 40, 1)), "fail", "make install"),
        (kernel.time(True), "ok", "is synchronised"),
        (kernel.time(False), "warn", "NTP"),
        (kernel.time(None), "ok", "does not say"),
        (records.witness(None, None, 7), "warn", "audit.witness"),
        (records.witness("file:/w", 6, 7), "warn", "up to row 6"),
        (records.witness("file:/w", 7, 7), "ok", "file:/w"),
        (records.witness("syslog:/dev/log", None, 7), "ok", "/dev/log"),
        (software.vllm("vllm 0.32.0"), "ok", "0.32.0"),
        (software.vllm(None), "fail", "make install"),
        (software.packages({"a": "1"}, {"a": "1", "b": "2"}), "ok", ""),
        (software.packages({"a": "1", "b": "3"}, {"a": "1", "b": "2"}), "warn", "b 3 (not 2)"),
        (software.packages({"a": "1"}, {}), "warn", "constraints"),
        (software.proxy({}), "ok", ""),
        (software.proxy({"HTTPS_PROXY": "http://p", "no_proxy": "localhost, 127.0.0.1"}), "ok", ""),
        (software.proxy({"HTTPS_PROXY": "http://p", "no_proxy": ".example.co.jp"}), "warn", "no_proxy"),
        (device.gpu(()), "ok", "CPU"),
        (device.gpu((Gpu("H200", 139 * GIB, 100 * GIB),)), "ok", "H200"),
        (device.gpu((Gpu("T400", 2 * GIB, GIB),)), "warn", "T400 is too small"),
        (device.driver(None, None), "ok", ""),
        (device.driver("580.65.06", "13.0.96"), "ok", "580.65.06"),
        (device.driver("570.172.08", "13.0.96"), "fail", "580.65.06"),
        (device.driver("570.172.08", "12.9.79"), "ok", ""),
        (device.driver("580.65.06", "14.1.0"), "warn", "release notes"),
        (device.driver(None, "13.0.96"), "fail", "nvidia-smi"),
        (device.driver("580.65.06", None), "warn", "CPU build"),
        (device.silent("none", "auto"), "ok", ""),
        (device.silent("answers", "auto"), "ok", ""),
        (device.silent("silent", "auto"), "fail", "engine.device: cpu"),
        (device.silent("silent", "cpu"), "warn", "does not answer"),
        (secrecy.engines("auto", ("bubblewrap", "landlock", "none")), "ok", "bubblewrap"),
        (secrecy.engines("auto", ("landlock", "none")), "ok", "landlock"),
        (secrecy.engines("auto", ("bubblewrap", "none")), "warn", "trainings"),
        (secrecy.engines("auto", ("none",)), "warn", "engines and trainings"),
        (secrecy.engines("none", ("bubblewrap", "landlock", "none")), "warn", "without a sandbox"),
        (secrecy.engines("bubblewrap", ("landlock", "none")), "fail", "bubblewrap"),
        (weights.named(["base@1"]), "fail", "base@1"),
        (disk.space(100 * GIB), "ok", "100 GiB"),
        (disk.space(10 * GIB), "warn", "10 GiB"),
        (disk.space(GIB), "fail", "make room"),
        (disk.filesystem("ext4", sqlite=True), "ok", "ext4"),
        (disk.filesystem("nfs4", sqlite=True), "fail", "SUMIKA_HOME"),
        (disk.filesystem("nfs4", sqlite=False), "warn", "nfs4"),
        (disk.filesystem("tmpfs", sqlite=False), "fail", "restart"),
        (kernel.open_files(-1), "ok", ""),
        (kernel.open_files(65536), "ok", "65536"),
        (kernel.open_files(1024), "warn", "ulimit"),
        (kernel.swap(0), "ok", ""),
        (kernel.swap(3 * GIB), "warn", "3.0 GiB"),
        (kernel.huge_pages("always [madvise] never", gpu=False), "ok", ""),
        (kernel.huge_pages("always madvise [never]", gpu=False), "warn", "madvise"),
        (kernel.huge_pages("always madvise [never]", gpu=True), "ok", ""),
        (exposure.tls("127.0.0.1", None), "ok", ""),
        (exposure.tls("::1", None), "ok", ""),
        (exposure.tls("localhost", None), "ok", ""),
        (exposure.tls("0.0.0.0", None), "warn", "certificate"),
        (exposure.tls("ai.example.co.jp", None), "warn", "without TLS"),
        (exposure.tls("0.0.0.0", "http://ai.example.co.jp"), "warn", "without TLS"),
        (exposure.tls("0.0.0.0", "https://ai.example.co.jp"), "ok", "firewall"),
        (exposure.port("127.0.0.1:8000", free=True, ours=False), "ok", "free"),
        (exposure.port("127.0.0.1:8000", free=False, ours=True), "ok", "Sumika"),
        (exposure.port("127.0.0.1:8000", free=False, ours=False), "warn", "SUMIKA_PORT"),
        (database.schema("0007", ["0006", "0007"]), "ok", "0007"),
        (database.schema(None, ["0006", "0007"]), "ok", "empty"),
        (database.schema("0006", ["0006", "0007"]), "warn", "sumika backup"),
        (database.schema("0009", ["0006", "0007"]), "fail", "newer"),
        (database.silent("connection refused"), "fail", "connection refused"),
        (database.sqlite([]), "ok", ""),
        (database.sqlite(["row 3 missing from index"]), "fail", "sumika restore"),
        (database.postgresql(16, SAFE), "ok", "16"),
        (database.postgresql(16, SAFE | {"fsync": "off"}), "fail", "fsync = off"),
        (database.postgresql(16, SAFE | {"synchronous_commit": "off"}), "fail", "synchronous_commit = off"),
        (database.postgresql(16, SAFE | {"full_page_writes": "off"}), "fail", "full_page_writes = off"),
        (database.postgresql(13, SAFE), "warn", "15"),
        (database.clock(0.4), "ok", ""),
        (database.clock(2.5), "fail", "2.5 s ahead"),
        (database.clock(-2.5), "fail", "2.5 s behind"),
        (counters.none(), "ok", ""),
        (counters.redis("8.0.1"), "ok", "8.0.1"),
        (counters.redis("4.0.14"), "fail", "5.0"),
        (counters.redis(None, "refused"), "fail", "refused"),
        (records.signed(0, PAST, NOW), "ok", ""),
        (records.signed(2, clock.spell(NOW), NOW), "ok", ""),
        (records.signed(2, PAST, NOW), "warn", "2 rows"),
        (records.signed(2, None, NOW), "warn", "its beginning"),
        (records.signed(-3, PAST, NOW), "fail", "3 rows fewer"),
        (records.whole(True, 9), "ok", "9"),
        (records.whole(False, 9), "fail", "sumika audit verify"),
        (weights.there([]), "ok", ""),
        (weights.there(["faq@1"]), "fail", "faq@1"),
        (weights.pinned([]), "ok", ""),
        (weights.pinned(["ruri@1"]), "warn", "ruri@1"),
        (weights.intact([]), "ok", ""),
        (weights.intact(["faq@2"]), "fail", "sumika models verify"),
        (duty.supervised(0, None, NOW), "ok", "not run"),
        (duty.supervised(1, SOON, NOW), "ok", "at work"),
        (duty.supervised(2, PAST, NOW), "warn", "2 gateways"),
        (duty.supervised(1, None, NOW), "warn", "never"),
    ],
)
def test_check(finding: Finding, level: str, says: str) -> None:
    assert finding.level == level and says in finding.en and finding.ja != ""
    if level != "ok":
        assert finding.en != finding.ja


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/a", "ext4"), ("/srv/models/x", "ext4"), ("/srv/models old/x", "xfs"), ("/srv/modelsx", "ext4"), ("/srv/住処/var", "xfs"), ("/mnt/nas", "nfs4")],
)  # fmt: skip
def test_filesystem_is_that_of_the_nearest_mount_and_the_later_of_two(path: str, kind: str) -> None:
    assert disk.kind_of(Path(path), MOUNTS) == kind


def test_swap_is_counted_from_meminfo() -> None:
    assert kernel.swapped("MemTotal: 8 kB\nSwapTotal:  2048 kB\nSwapFree:  1024 kB\n") == 2**20
    assert kernel.swapped("") == 0


def test_constraints_are_read_with_hashes_and_markers(tmp_path: Path) -> None:
    file = tmp_path / "cpu.txt"
    file.write_text("torch==2.13.0+cpu \\\n    --hash=sha256:aa\nPy_YAML==6.0 ; python_version > '3'\n# via x==1\n")
    assert software.pinned(file) == {"torch": "2.13.0+cpu", "py-yaml": "6.0"}
    assert software.pinned(tmp_path / "none.txt") == {}


def told(*words: str) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    ran = CliRunner().invoke(main.build("doctor"), ["doctor", "--json", *words])
    seen = json.loads(ran.stdout)
    return ran.exit_code, seen, {finding["name"]: finding for finding in seen["findings"]}


def run(*words: str) -> None:
    ran = CliRunner().invoke(main.build(), list(words))
    assert ran.exit_code == 0, ran.output


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUMIKA_LANG", "en")


def test_looking_at_a_new_machine_makes_nothing(tmp_path: Path) -> None:
    _, _, findings = told("--deep")
    assert not (tmp_path / "home").exists() and "schema" not in findings and findings["private_files"]["level"] == "ok"


def test_every_subject_is_looked_at_once_there_is_a_home() -> None:
    run("keys", "list")
    code, seen, findings = told("--deep")
    assert set(findings) == {
        "cpu", "gpu", "driver", "vllm", "python", "sqlite", "packages", "proxy", "open_files", "time", "swap", "huge_pages", "disk", "filesystem", "private_files",
        "private_home", "settings_file", "client_secrets", "sandbox", "gpu_answers", "tls", "redis", "database", "clock", "schema", "audit", "audit_witness", "audit_chain", "weights", "weights_names", "weights_hashes", "weights_revisions", "supervisor", "port",
    }  # fmt: skip
    assert code == (0 if seen["healthy"] else 1) == int(any(one["level"] == "fail" for one in findings.values()))


def open_key(home: Home) -> str:
    home.admin_key.chmod(0o640)
    return "private_files"


def open_home(home: Home) -> str:
    home.root.chmod(0o755)
    return "private_home"


def changed_log(home: Home) -> str:
    store = Store(f"sqlite:///{home.database}")
    with store.write() as connection:
        connection.execute(text("drop trigger audit_no_update"))
        connection.execute(text("update audit set actor = 'somebody else' where seq = 1"))
    store.close()
    return "audit_chain"


def lost_checkpoints(home: Home) -> str:
    home.checkpoints.unlink()
    return "audit"


def older_schema(home: Home) -> str:
    store = Store(f"sqlite:///{home.database}")
    with store.migrating() as (connection, config):
        upgrades.downgrade(connection, config, upgrades.revisions(alembic_config())[-2])
    store.close()
    return "schema"


def no_database(home: Home) -> str:
    home.database.write_bytes(b"this is no database" * 1000)
    return "database"


@pytest.mark.parametrize("harm", [open_key, open_home, changed_log, lost_checkpoints, older_schema, no_database])
def test_what_is_wrong_in_a_home_is_found(tmp_path: Path, harm: Callable[[Home], str]) -> None:
    run("keys", "create", "bot")
    assert not [
        name for name, one in told("--deep")[2].items() if name in ("private_files", "audit", "schema") and one["level"] != "ok"
    ]
    name = harm(Home(tmp_path / "home"))
    assert told("--deep")[2][name]["level"] != "ok"


def test_password_in_a_settings_file_that_everybody_can_read(tmp_path: Path) -> None:
    file = tmp_path / "sumika.yaml"
    file.write_text("x")
    file.chmod(0o644)
    for data in ({"database_url": "postgresql+psycopg://a:b@h/d"}, {"gateway": {"limits_url": "redis://:pw@h:6379/0"}}):
        assert secrecy.settings_file(file, data).level == "fail"
    for data in (
        {},
        {"database_url": "postgresql+psycopg://a@h/d"},
        {"gateway": None},
        {"database_url": 3},
        {"database_url": "??"},
    ):
        assert secrecy.settings_file(file, data).level == "ok"
    file.chmod(0o640)
    assert secrecy.settings_file(file, {"database_url": "postgresql+psycopg://a:b@h/d"}).level == "ok"


def test_client_secret_that_everybody_can_read(tmp_path: Path) -> None:
    file = tmp_path / "console.secret"
    assert secrecy.client_secrets([file]).level == "ok"
    file.write_text("x")
    file.chmod(0o640)
    assert secrecy.client_secrets([file]).level == "ok"
    file.chmod(0o644)
    assert secrecy.client_secrets([file]).level == "fail" and "chmod o=" in secrecy.client_secrets([file]).en


def test_server_that_does_not_answer_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMIKA_DATABASE_URL", "postgresql+psycopg://a@127.0.0.1:1/x")
    monkeypatch.setenv("SUMIKA_GATEWAY__LIMITS_URL", "redis://127.0.0.1:1/0")
    code, _, findings = told()
    assert code == 1 and findings["database"]["level"] == findings["redis"]["level"] == "fail"


def test_redis_tells_its_version(monkeypatch: pytest.MonkeyPatch, valkey: str) -> None:
    monkeypatch.setenv("SUMIKA_GATEWAY__LIMITS_URL", valkey)
    assert told()[2]["redis"]["level"] == "ok"
