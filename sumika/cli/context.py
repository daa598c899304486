"""What a command starts from: settings and an open store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sumika.cli.shell_user import operator
from sumika.models.actor import Actor
from sumika.models.bootstrap import open_store
from sumika.models.settings import Settings, load_settings
from sumika.models.store import Store

_PARENT_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Alone:
    """Typer's context object where the process is one command's own: it may be set up for that command, and ends with it."""


@contextmanager
def opened(by: Actor | None = None) -> Iterator[tuple[Settings, Store]]:
    """What is done through the store is done by `by`; by whoever typed the command where nobody is named."""
    settings = load_settings()
    store = open_store(settings, by or operator())
    try:
        yield settings, store
    finally:
        store.close()


def actor() -> str:
    """Who acts from this command line, for the history and the audit log: the user and the machine."""
    return operator().name


def when_orphaned(parent: int, act: Callable[[], object]) -> None:
    """Do `act` once `parent` is no longer our parent: whoever started us died and can't end us any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        act()

    threading.Thread(target=watch, daemon=True).start()


def end_with(parent: int) -> None:
    """Be asked to end, as by SIGTERM, with `parent`."""
    when_orphaned(parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
