"""Rows of who looked up what: reading changes nothing, and is told all the same."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sumika.models import audit
from sumika.models.actor import Actor
from sumika.models.audit import Action, canonical
from sumika.models.principals import Principal
from sumika.models.store import Store

# The same look-up of the same person from the same place is told once within this: a page that renews itself, or goes on to its next rows, asks again and again.
AGAIN_S = 600.0
_MOST = 1_000


class Lookups:
    """Of one gateway worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: dict[tuple[str, str, str, str, bytes], float] = {}

    def note(self, who: Principal, action: Action, object: str, details: Mapping[str, Any]) -> None:
        """Raises SumikaError, where it can't be recorded; nothing is to be shown then."""
        key, now = (who.id, who.source, str(action), object, canonical.dump(details)), time.monotonic()
        if now - self._told.get(key, -AGAIN_S) < AGAIN_S:
            return
        record(self._store, who, action, object, details)
        if len(self._told) >= _MOST:
            self._told = {known: at for known, at in self._told.copy().items() if now - at < AGAIN_S}
        if len(self._told) < _MOST:  # else everything is told each time
            self._told[key] = now


def record(store: Store, who: Principal, action: Action, object: str, details: Mapping[str, Any]) -> None:
    """Quietly: nothing that others wait for has changed. The recorder has it signed within a minute.

    Raises:
        SumikaError: what the store raises.
    """
    with store.write(quiet=True, by=Actor(who.id, who.role, who.source)) as connection:
        audit.append(connection, action, object, details=details)
