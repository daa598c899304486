"""Patterns of a regex suite, searched for in a child process that is ended when one takes too long."""

from __future__ import annotations

import json
import logging
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from sumika.models.errors import quoted

log = logging.getLogger(__name__)

LONGEST = 2000
# Of one search, and of all that one judgement makes.
_SEARCH_S, _SEARCHES_S = 1.0, 60.0
_WORKER = Path(__file__).with_name("pattern_worker.py")


def fault(pattern: str) -> str | None:
    """Why `pattern` is none, in Python's words."""
    if len(pattern) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return quoted(str(error))
    return None


class PatternSearch:
    """Searches for `left_s` seconds in all. A search that takes too long, or comes after that, finds nothing."""

    def __init__(self, left_s: float = _SEARCHES_S) -> None:
        self._left_s = left_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PatternSearch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def found(self, pattern: str, text: str) -> bool:
        if self._left_s <= 0:
            return False
        child = self._child = self._child or _started()
        began = time.monotonic()
        answer = _asked(child, pattern, text, min(_SEARCH_S, self._left_s))
        self._left_s -= time.monotonic() - began
        if answer == b"":
            log.warning("a suite's pattern took too much time or memory, and counts as not found")
            self._end()
        return answer == b"1\n"

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def _started() -> subprocess.Popen[bytes]:
    # -I: nothing of the environment or the working directory decides what the child imports.
    command = [sys.executable, "-I", str(_WORKER)]
    return subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _asked(child: subprocess.Popen[bytes], pattern: str, text: str, within_s: float) -> bytes:
    """The child's line; empty where it gave none in time, or died."""
    assert child.stdin is not None and child.stdout is not None  # noqa: S101 - pipes, as it was started
    try:
        child.stdin.write(json.dumps({"pattern": pattern, "text": text}).encode() + b"\n")
    except BrokenPipeError:
        return b""
    readable, _, _ = select.select([child.stdout], [], [], within_s)
    return child.stdout.readline() if readable else b""
