"""A home that is not ours, or not whole: one sentence that names the path and the way out, at the function and at the command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sumika.models.errors import SumikaError
from sumika.models.home import Home
from tests.conftest import ROOT

NOBODY = 65534
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SUMIKA_")}
    return subprocess.run(
        [sys.executable, "-m", "sumika.cli.main", *words], env=env | {"SUMIKA_HOME": str(home), "SUMIKA_LANG": "en"}, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip


def as_nobody(home: Path) -> str:
    """What `create` tells another user, who may reach the home's folder."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setuid(NOBODY)
            Home(home).create()
        except SumikaError as error:
            os.write(write, f"{error.code} {error.en} {error.ja}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as told:
        return told.read()


@only_root
def test_home_of_another_user_names_its_owner() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets nobody else in
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        Home(home).create()
        told = as_nobody(home)
        assert told.startswith("home_denied") and "belongs to root" in told and "sudo -u root" in told and str(home) in told
        assert "home_denied" in as_nobody(Path(folder) / "other"), "one that can't be made"


@only_root
@pytest.mark.parametrize(
    "words", [["keys", "list"], ["models", "list"], ["status"], ["up"], ["gateway"], ["finetune", "worker"]], ids=" ".join
)
def test_socket_folder_of_another_user_is_one_sentence(tmp_path: Path, words: list[str]) -> None:
    home = Home(tmp_path / "h")
    home.create()
    os.chown(home.sockets, NOBODY, NOBODY)
    told = command(home.root, *words)
    assert told.returncode == 77 and "Traceback" not in told.stderr
    assert str(home.sockets) in told.stderr.replace("\n", "") and "belongs to" in told.stderr


@pytest.mark.parametrize("folder", ["logs", "usage", "sockets", "artifacts"])
def test_file_where_a_folder_must_be_is_named(tmp_path: Path, folder: str) -> None:
    home = Home(tmp_path / "h")
    home.root.mkdir()
    blocked: Path = getattr(home, folder)
    blocked.touch()
    try:
        with pytest.raises(SumikaError, match=f"{re.escape(str(blocked))} must be a folder") as caught:
            home.create()
    finally:
        blocked.unlink()  # in /tmp, where the home's path is too long for a socket
    assert caught.value.code == "home_broken"


def test_command_in_a_broken_home_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "logs").touch()
    told = command(tmp_path / "h", "keys", "list")
    assert told.returncode == 1 and "must be a folder" in told.stderr and "Traceback" not in told.stderr


def test_home_under_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = command(tmp_path / "file" / "home", "keys", "list")
    assert told.returncode == 1 and "must be a folder" in told.stderr and "Traceback" not in told.stderr


@only_root
def test_doctor_tells_another_user_whose_home_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sumika.cli.checkup import gathered
    from sumika.models.settings import Settings

    home = Home(tmp_path / "h")
    home.create()
    monkeypatch.setattr(os, "access", lambda *_: False)
    [found] = gathered.of_installation(Settings(home=home.root), None, deep=False)  # type: ignore[arg-type]
    assert found.level == "fail" and str(home.root) in found.en


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:43391"),
        ("::1", "http://[::1]:43391"),
        ("::", "http://[::]:43391"),
        ("ai.example", "http://ai.example:43391"),
    ],
)
def test_address_is_spelled_as_browsers_take_it(host: str, url: str) -> None:
    from sumika.models.settings import Settings

    assert Settings(host=host, port=43391).url == url
