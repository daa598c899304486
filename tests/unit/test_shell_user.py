"""Who acts at the command line is what the kernel says, whatever the environment does."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import pytest

from sumika.cli import shell_user
from sumika.cli.context import actor
from sumika.cli.shell_user import operator

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which nobody logged in, and our parent is a shell of ours."""
    monkeypatch.setattr(shell_user, "_PROC", tmp_path)
    monkeypatch.setattr(os, "getppid", lambda: 30)
    for name in ("SUDO_UID", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    process(tmp_path, 30, os.getuid(), 20)
    process(tmp_path, 20, 0, 1)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "loginuid").write_text("4294967295")
    return tmp_path


def process(proc: Path, pid: int, uid: int, parent: int) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t{uid}\t0\t0\t0\n")


def test_environment_names_nobody(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "chief.auditor")
    assert operator().name == actor() == f"cli:{ME}@{socket.gethostname()}" and operator().source == ""


def test_login_stands_beside_the_user(proc: Path) -> None:
    (proc / "self" / "loginuid").write_text("54321")
    assert operator().source == "login:uid-54321"


def test_sudo_to_root_tells_who_called_it(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "54321")
    assert operator().source == "sudo:uid-54321"
    monkeypatch.setenv("SUDO_UID", "²x")
    assert operator().source == ""


def test_sudo_to_another_is_seen_by_its_parents_and_not_by_what_it_says(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000)
    process(proc, 30, 0, 20)  # sudo
    process(proc, 20, 54_321, 1)  # whose shell called it
    monkeypatch.setenv("SUDO_UID", "1")
    assert operator().name.startswith("cli:uid-4000@") and operator().source == "sudo:uid-54321"
    process(proc, 20, 4_000, 1)
    assert operator().source == ""
    (proc / "30" / "status").unlink()
    assert operator().source == ""


def test_whoever_makes_themselves_another_in_a_namespace_is_named_beside(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`unshare -r` makes anybody root, `unshare -U --map-user` whomever they like, and their SUDO_UID is their own word."""
    (proc / "self" / "uid_map").write_text("         0          0 4294967295\n")
    assert operator().source == ""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "54321")
    (proc / "self" / "uid_map").write_text("         0       4000          1\n")
    assert operator().source == "namespace:uid-4000"
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    (proc / "self" / "uid_map").write_text("     54321      54321          1\n")
    assert operator().source.endswith("namespace:uid-54321")
