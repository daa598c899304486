"""Who is at the shell, as the kernel says. What the environment says (LOGNAME, USER, SUDO_USER) is whatever the caller put there."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

from sumika.models.actor import Actor

_PROC = Path("/proc")
_UNSET = 2**32 - 1
_LONGEST_NAME = 128
# Between a shell and a command of ours lie sudo, perhaps its monitor, and a script or two.
_MOST_PARENTS = 16


def operator() -> Actor:
    """The real user id's name and the machine; as the source whoever logged in, and whoever called sudo, where that is somebody else."""
    uid = os.getuid()
    known = {"login": _login_uid(), "sudo": _caller_uid(uid), "namespace": _outer_uid(uid)}
    source = " ".join(
        f"{what}:{name_of(found)}" for what, found in known.items() if found is not None and (found != uid or what == "namespace")
    )
    return Actor(f"cli:{name_of(uid)}@{socket.gethostname()}"[:_LONGEST_NAME], "operator", source)


def name_of(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else ""
    except (KeyError, OverflowError):
        return f"uid-{uid}"


def _login_uid() -> int | None:
    """Who logged in, which PAM tells the kernel once and sudo leaves as it is."""
    try:
        found = int((_PROC / "self" / "loginuid").read_text())
    except (OSError, ValueError):
        return None
    return None if found == _UNSET else found


def _caller_uid(uid: int) -> int | None:
    """Who became `uid`: of root sudo's own word, which nobody else could have put there; of others the first other user among the
    parents, since a process has a parent of another user only where that one started it."""
    said = os.environ.get("SUDO_UID", "")
    if uid == 0 and said.isascii() and said.isdigit() and _outer_uid(uid) is None:
        return int(said)
    return _parents_uid(uid)


def _outer_uid(uid: int) -> int | None:
    """In a user namespace anybody is whom they like to be: who `uid` is outside. None where there is no such namespace, and where /proc
    does not say."""
    try:
        ranges = [list(map(int, line.split())) for line in (_PROC / "self" / "uid_map").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    if ranges == [[0, 0, _UNSET]]:
        return None
    return next((outer + uid - inner for inner, outer, count in ranges if inner <= uid < inner + count), _UNSET)


def _parents_uid(uid: int) -> int | None:
    pid = os.getppid()
    for _ in range(_MOST_PARENTS):
        fields = _status(pid)
        if not fields or pid <= 1:
            return None
        real = int(fields["Uid"].split()[0])
        if real not in (0, uid):
            return real
        pid = int(fields["PPid"])
    return None


def _status(pid: int) -> dict[str, str]:
    """Of /proc/PID/status (proc(5)); empty where we may not look."""
    try:
        text = (_PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return {}
    fields = {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}
    return fields if {"Uid", "PPid"} <= fields.keys() else {}
