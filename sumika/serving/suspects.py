"""Which requests ran when an engine ended: one memory for all gateway workers of a machine, so that a request finds none that does not know.

It is a file that all append to, a line for each thing learnt; between two looks at it only its size is asked for. It tells hashes
of requests, nothing of what they say, and losing it costs an engine or two, so it is not synced.

A mark is the hash of a body and, behind it, of whose request it is: who ends engines has only their own requests refused.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sumika.serving.process import ProcessId

FORGOTTEN_AFTER_S = 600.0
# Further ones push out the oldest.
_MOST = 4_096
# Lines of what is forgotten since are swept out by whoever makes it longer than this.
_LARGEST_BYTES = 2**20
_RAN, _CLEARED = "ran", "cleared"
_BODY_BYTES = 32
_OWNER_BYTES = 8


def mark(body: bytes, owner: str) -> bytes:
    """What tells a request from others."""
    return hashlib.sha256(body).digest() + hashlib.sha256(owner.encode()).digest()[:_OWNER_BYTES]


class Suspects:
    """One worker's view. `file`: shared with the others; None, where there are none."""

    def __init__(self, file: Path | None, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        # Which engines ended, and when the last did; the oldest first.
        self._known: OrderedDict[bytes, tuple[frozenset[ProcessId], float]] = OrderedDict()
        self._by_body: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._read = (0, 0)  # inode, and how far

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, mark: bytes) -> bool:
        return mark in self._known

    def refresh(self) -> None:
        """Learn what other workers saw, and forget what is long ago."""
        self._catch_up()
        now = self._now()
        while self._known and (len(self._known) > _MOST or abs(now - next(iter(self._known.values()))[1]) > FORGOTTEN_AFTER_S):
            self._forget(next(iter(self._known)))

    def deaths(self, mark: bytes) -> int:
        return len(self._known[mark][0]) if mark in self._known else 0

    def ran(self, mark: bytes, engine: ProcessId) -> bool:
        """A request ran when `engine` ended; whether that is news."""
        if mark in self._known and engine in self._known[mark][0]:
            return False
        self._learn(mark, engine, self._now())
        self._tell(f"{_RAN} {mark.hex()} {engine.pid} {engine.started} {self._now():.0f}")
        return True

    def clear(self, mark: bytes) -> None:
        """This body was answered: it ends no engine, whoever sends it."""
        if self._clear(mark):
            self._tell(f"{_CLEARED} {mark.hex()}")

    def _clear(self, mark: bytes) -> bool:
        same = list(self._by_body.get(mark[:_BODY_BYTES], ()))
        for one in same:
            self._forget(one)
        return bool(same)

    def _forget(self, mark: bytes) -> None:
        del self._known[mark]
        same = self._by_body[mark[:_BODY_BYTES]]
        same.discard(mark)
        if not same:
            del self._by_body[mark[:_BODY_BYTES]]

    def _learn(self, mark: bytes, engine: ProcessId, at: float) -> None:
        ended, last = self._known.pop(mark, (frozenset[ProcessId](), at))
        self._by_body[mark[:_BODY_BYTES]].add(mark)
        self._known[mark] = ((ended if abs(at - last) <= FORGOTTEN_AFTER_S else frozenset()) | {engine}, at)

    def _tell(self, line: str) -> None:
        if self._file is None:
            return
        with suppress(OSError), self._file.open("a") as file:  # a full disk costs only that the others don't know
            file.write(line + "\n")
            if file.tell() < _LARGEST_BYTES:
                return
            self._sweep(self._file)

    def _sweep(self, file: Path) -> None:
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        lines = [
            f"{_RAN} {mark.hex()} {one.pid} {one.started} {at:.0f}\n"
            for mark, (ended, at) in self._known.items()
            for one in ended
        ]
        fresh.write_text("".join(lines))
        fresh.replace(file)

    def _catch_up(self) -> None:
        try:
            there = os.stat(self._file) if self._file else None
        except FileNotFoundError:
            there = None
        if there is None or self._file is None or (there.st_ino, there.st_size) == self._read:
            return
        inode, read = self._read
        start = read if inode == there.st_ino and read <= there.st_size else 0
        with self._file.open("rb") as file:
            file.seek(start)
            whole, end, _ = file.read().rpartition(b"\n")  # a line that is being written is read the next time
        self._read = (there.st_ino, start + len(whole + end))
        for line in whole.decode(errors="replace").splitlines():
            with suppress(ValueError):
                self._read_line(line.split(" "))

    def _read_line(self, words: list[str]) -> None:
        match words:
            case [kind, mark, pid, started, at] if kind == _RAN:
                if abs(self._now() - float(at)) <= FORGOTTEN_AFTER_S:
                    self._learn(bytes.fromhex(mark), ProcessId(int(pid), started), float(at))
            case [kind, mark] if kind == _CLEARED:
                self._clear(bytes.fromhex(mark))
