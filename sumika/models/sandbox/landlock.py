"""The same view held by Landlock, which needs no namespace and so works in containers and hardened services too.

Weaker than bubblewrap: names of files and Unix sockets can be seen, and other addresses of this machine are only closed with
`network=False`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sumika.models.sandbox import landlock_exec
from sumika.models.sandbox.view import View, programs, without

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm", "/dev/tty")  # noqa: S108


def wrapped(argv: Sequence[str], environment: Mapping[str, str], view: View) -> list[str]:
    """The whole argv: a small program that gives up what the view leaves out and becomes `argv`."""
    granted = programs(argv, environment)
    reads = [part for path in granted for part in without(path, view.home)]
    # Python lists the folders it imports from; where the home lies in one, its name can be seen, and no more of it.
    lists = [path for path in granted if view.home.resolve().is_relative_to(path.resolve())]
    rules = {
        "read": [str(path) for path in (*reads, Path("/proc"), *view.reads)],
        "list": [str(path) for path in lists],
        "write": [str(path) for path in (view.temp, *map(Path, _DEVICES), *view.devices, *view.writes) if path.exists()],
        "network": view.network,
    }
    return [sys.executable, "-I", "-S", landlock_exec.__file__, json.dumps(rules), *argv]


@lru_cache(maxsize=1)
def works() -> bool:
    return landlock_exec.abi() > 0
