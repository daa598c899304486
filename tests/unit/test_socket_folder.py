"""The folder of the sockets, where it must lie in /tmp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sumika.models.errors import SumikaError
from sumika.models.home import Home


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose own path is too long for a socket."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(shared))
    home = Home(tmp_path / ("h" * 90))
    assert home.sockets.parent == shared
    return home


def test_socket_folder_beyond_the_home_is_private(long: Home) -> None:
    long.create()
    long.create()
    assert long.sockets.stat().st_mode & 0o777 == 0o700


def test_link_in_place_of_the_socket_folder_is_refused(long: Home, tmp_path: Path) -> None:
    """What it leads to is ours now; who made the link can make it lead to their own folder later."""
    ours = tmp_path / "ours"
    ours.mkdir()
    ours.chmod(0o755)
    long.sockets.symlink_to(ours)
    with pytest.raises(SumikaError, match="must be a folder"):
        long.create()
    assert ours.stat().st_mode & 0o777 == 0o755, "it is left alone"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder another user's")
def test_socket_folder_of_another_user_is_refused(long: Home) -> None:
    long.sockets.mkdir()
    os.chown(long.sockets, 12345, 12345)
    with pytest.raises(SumikaError, match="can't be used by the user"):
        long.create()


def test_link_within_the_home_is_the_operators_own(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home.root.mkdir()
    (home.root / "run").symlink_to(elsewhere)
    home.create()
    assert elsewhere.stat().st_mode & 0o777 == 0o700
