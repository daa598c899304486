"""bubblewrap's command line for a view: namespaces of its own for files, processes, System V objects and, without `network`, addresses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sumika.models.sandbox.view import View, programs

_TOOL = "bwrap"
_PROBE_S = 10.0


def wrapped(argv: Sequence[str], environment: Mapping[str, str], view: View, info_fd: int | None = None) -> list[str]:
    """The whole argv. The process that runs in it ends when it wishes, not with us: engines outlive a supervisor.

    `info_fd`: where bubblewrap writes the number of the first process inside.
    """
    tool = shutil.which(_TOOL)
    assert tool is not None  # noqa: S101 - `works` was asked
    binds = ["--bind", str(view.temp), "/tmp"]  # noqa: S108 - inside, where it is the process's own; first, since programs may lie in /tmp
    binds += [word for path in programs(argv, environment) for word in ("--ro-bind", str(path), str(path))]
    binds += ["--proc", "/proc", "--dev", "/dev"]
    binds += [word for device in view.devices for word in ("--dev-bind", str(device), str(device))]
    # What lies under a folder that is bound (a home in a source tree) is covered before its own few folders are bound again.
    binds += ["--tmpfs", str(view.home)]
    binds += [word for path in view.reads for word in ("--ro-bind", str(path), str(path))]
    binds += [word for path in view.writes for word in ("--bind", str(path), str(path))]
    binds += ["--remount-ro", str(view.home)]
    network = [] if view.network else ["--unshare-net"]
    info = [] if info_fd is None else ["--info-fd", str(info_fd)]
    return [
        tool, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", *network,
        "--cap-drop", "ALL", *info, *binds, "--chdir", "/", "--", *argv,
    ]  # fmt: skip


@lru_cache(maxsize=1)
def works() -> bool:
    """Whether it is there and may make its namespaces: containers and hardened services often forbid that."""
    tool = shutil.which(_TOOL)
    if tool is None:
        return False
    probe = [
        tool, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL",
        "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108
        "--", Path("/bin/true").resolve().as_posix(),
    ]  # fmt: skip
    try:
        ended = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0
