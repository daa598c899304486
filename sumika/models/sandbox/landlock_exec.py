"""Run as a program: `landlock_exec.py RULES COMMAND…` gives up all files but those of RULES (JSON), and becomes COMMAND.

Needs nothing but the standard library, since it is started without ours. The system calls are Linux's own (landlock(7)).
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
from typing import Any

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_CAPABILITIES = 0x20080522  # version 3 of capset(2)
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_SYMLINK = 1 << 12  # to nobody: whoever reads here later must not be led elsewhere
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# The newest right that each version of the interface knows: up to `1 << n`.
_FIRST, _SINCE = (1 << 13) - 1, {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_NETWORK = 0b11  # bind and connect of TCP, since version 4
_SCOPES = 0b11  # abstract Unix sockets and signals, since version 6


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32)]


def abi() -> int:
    """The version of the kernel's interface; 0 where there is none."""
    return max(0, int(_library().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def restrict(rules: dict[str, Any]) -> None:
    """Raises OSError where the kernel refuses."""
    version = abi()
    handled = _FIRST | sum(right for since, right in _SINCE.items() if version >= since)
    ruleset = _Ruleset(handled, 0 if rules["network"] or version < 4 else _NETWORK, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    fd = _checked(_library().syscall(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    for key, rights in (("read", _READ), ("list", _READ_DIR), ("write", handled & ~_MAKE_SYMLINK)):
        for path in rules[key]:
            _allow(fd, path, rights & handled)
    _checked(_library().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_library().syscall(_RESTRICT, fd, ctypes.c_uint32(0)))
    os.close(fd)
    _drop_capabilities()


def _drop_capabilities() -> None:
    """Root's would show it other processes' environments; `no_new_privs` keeps them from coming back."""
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    _checked(_library().capset(header, none))


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        _checked(_library().syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(_Beneath(rights, fd)), ctypes.c_uint32(0)))
    finally:
        os.close(fd)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    restrict(json.loads(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is what this program is for
