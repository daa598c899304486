"""The clerk: a process beside a gateway worker that puts closed journals of usage into the table and the audit log.

In a thread of the gateway the same work held Python's lock for milliseconds at a time while requests waited for it
(docs/performance.md). Forked before the gateway opens anything, it costs no start and little memory; it ends with the gateway,
and drains what one that was killed left.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sumika.models.actor import SYSTEM
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.models.usage import drain

log = logging.getLogger(__name__)

_PAUSE_S = 0.25
# For the last rows, and for the witness to sign.
_ENDING_S = 30.0
# The witness signs for these rows this often; for what people do it signs at once.
_SIGN_ROWS = 1_000
_SIGN_S = 60.0


class Clerk:
    """Drains the journals of one home into one store."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._folder = settings.layout.usage
        self._audited = settings.audit.inference == "metadata"
        self._witness = Witness(settings.layout, settings.audit.witness)
        self._unsigned = 0
        self._signed_at = time.monotonic()

    def drain(self) -> None:
        """Raises SumikaError where the store is away: journals stay."""
        added = drain.recover(self._store, self._folder, audited=self._audited)
        self._unsigned += added if self._audited else 0
        if self._unsigned >= _SIGN_ROWS or time.monotonic() - self._signed_at >= _SIGN_S:
            self.sign()

    def sign(self) -> None:
        """Have the witness sign for the rows that were added."""
        if self._unsigned:
            self._witness.look(self._store)
        self._unsigned, self._signed_at = 0, time.monotonic()


class ClerkProcess:
    """A clerk as a child of this process."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def end(self) -> None:
        """Let it drain what is there, and wait for it."""
        self._process.terminate()
        self._process.join(_ENDING_S)


@contextmanager
def beside(settings: Settings) -> Iterator[ClerkProcess]:
    """A clerk for as long as we are inside. To be entered before anything is opened and any thread runs: it is forked."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(settings, os.getpid()), daemon=True)
    process.start()
    child = ClerkProcess(process)
    try:
        yield child
    finally:
        child.end()


def _work(settings: Settings, parent: int) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to the gateway too, which ends us when it is done
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store = Store(settings.store_url, by=SYSTEM)
    clerk, over, well = Clerk(settings, store), False, True
    while not over:
        over = stop.wait(_PAUSE_S) or os.getppid() != parent
        well = _try(clerk, quiet=not well)
    if well:
        clerk.sign()
    store.close()
    logging.shutdown()  # a forked process ends without it


def _try(clerk: Clerk, *, quiet: bool) -> bool:
    try:
        clerk.drain()
    except SumikaError as error:
        why = error.en
    except Exception as error:  # a clerk that ended here would count nothing any more
        why = type(error).__name__
    else:
        return True
    if not quiet:
        log.error("usage can't be put into the table, its journals wait: %s", why)
    return False
