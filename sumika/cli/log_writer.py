"""Writing the log in a thread of its own: a log that nobody reads (a full pipe, a terminal on hold) must stop nobody's work."""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import time

_STDERR = 2
# Lines that wait for their reader; a trace of an error is one.
_MOST_WAITING = 5_000
# At the end of the process, for what waits to be written.
_LAST_LINES_S = 2.0


class BackgroundHandler(logging.Handler):
    """Formats a line where it is logged and writes it elsewhere. Lines that find no room are counted, and the count is logged
    once there is room again."""

    def __init__(self, fd: int = _STDERR, most_waiting: int = _MOST_WAITING) -> None:
        super().__init__()
        self._fd, self._most_waiting = fd, most_waiting
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Anew, also in a forked process, which has our lines but not our thread."""
        self._lines: queue.Queue[str] = queue.Queue(self._most_waiting)
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's lock."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1
        except Exception:  # as every handler: a line that can't be formatted stops nobody
            self.handleError(record)
        if self._thread is None:  # not before the first line: who forks has no thread yet
            self._thread = threading.Thread(target=self._write_all, args=(self._lines,), daemon=True, name="log")
            self._thread.start()

    def flush(self) -> None:
        """Wait for what waits to be written, but not for a reader who does not come."""
        deadline = time.monotonic() + _LAST_LINES_S
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _write_all(self, lines: queue.Queue[str]) -> None:
        while True:
            _write(self._fd, lines.get())
            if dropped := self._taken():
                _write(self._fd, self.format(_dropped(dropped)))
            lines.task_done()

    def _taken(self) -> int:
        self.acquire()
        try:
            dropped, self._dropped = self._dropped, 0
        finally:
            self.release()
        return dropped


def _dropped(count: int) -> logging.LogRecord:
    text = "%(dropped)d lines of this log were dropped, since nobody read it"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, ({"dropped": count},), None)


def _write(fd: int, line: str) -> None:
    """Past Python's buffers, whose lock a blocked write would hold at the end of the process."""
    left = memoryview(f"{line}\n".encode(errors="backslashreplace"))
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody who shares the terminal made it non-blocking
            select.select([], [fd], [])
        except OSError:  # closed: there is nobody to read it
            return
