"""Where the home lies: what kind of file system, and how much room."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sumika.cli.checkup.finding import Finding, fail, fine, warn

_GIB = 2**30
_LEAST = 5 * _GIB
_LITTLE = 20 * _GIB
# SQLite's locks and shared memory do not hold across machines (https://sqlite.org/wal.html: "does not work over a network filesystem").
_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "beegfs",
    }
)
# How the kernel writes a space in a name: \040.
_OCTAL = re.compile(r"\\([0-7]{3})")
_PASSING = frozenset({"tmpfs", "ramfs"})


def space(free: int) -> Finding:
    """`free`: bytes."""
    told = f"{free / _GIB:.0f} GiB"
    if free < _LEAST:
        return fail(
            "disk",
            f"{told} of disk free: not enough for a model; make room",
            f"ディスクの空き {told}: モデルには不足です。空きを確保してください",
        )
    if free < _LITTLE:
        return warn(
            "disk", f"{told} of disk free: little for models and trainings", f"ディスクの空き {told}: モデルと学習には少なめです"
        )
    return fine("disk", f"{told} of disk free", f"ディスクの空き {told}")


def filesystem(kind: str, *, sqlite: bool) -> Finding:
    """`sqlite`: whether the database lies in the home."""
    if kind in _NETWORK and sqlite:
        return fail(
            "filesystem", f"the home is on {kind}, where SQLite can lose data; set SUMIKA_HOME to a local disk, or use PostgreSQL (SUMIKA_DATABASE_URL)",
            f"ホームが {kind} 上にあり、SQLiteのデータが失われるおそれがあります。SUMIKA_HOME をローカルディスクにするか、PostgreSQLを使ってください",
        )  # fmt: skip
    if kind in _NETWORK:
        return warn(
            "filesystem", f"the home is on {kind}: loading models takes as long as the network does",
            f"ホームが {kind} 上にあり、モデルの読み込みがネットワークに依存します",
        )  # fmt: skip
    if kind in _PASSING:
        return fail(
            "filesystem", f"the home is on {kind}, which is empty after a restart; set SUMIKA_HOME to a disk",
            f"ホームが {kind} 上にあり、再起動で消えます。SUMIKA_HOME をディスクにしてください",
        )  # fmt: skip
    return fine("filesystem", f"the home is on {kind}", f"ホームのファイルシステム: {kind}")


def kind_of(path: Path, mounts: str) -> str:
    """The type of the file system that `path` (absolute, resolved) is on; `mounts`: the text of /proc/self/mountinfo (proc(5))."""
    found, longest = "unknown", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = _OCTAL.sub(lambda written: chr(int(written[1], 8)), before.split()[4])
        if os.path.commonpath([point, path]) == point and len(point) >= longest:  # of two on one point the later lies above
            found, longest = after.split()[0], len(point)
    return found
