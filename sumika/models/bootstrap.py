"""Open the home: its folders, its migrated store and, the first time, the administrator's key."""

from __future__ import annotations

from sumika.models import keys, signing
from sumika.models.actor import SYSTEM, UNNAMED, Actor
from sumika.models.audit import adopting
from sumika.models.audit.witness import Witness
from sumika.models.home import write_atomically
from sumika.models.settings import Settings
from sumika.models.store import Store


def open_store(settings: Settings, by: Actor = UNNAMED) -> Store:
    """Ready to use at every start; makes only what is missing. `by`: who acts through it."""
    home = settings.layout
    home.create()
    signing.sort_trust(home)
    if settings.database_url is None:
        home.database.touch(mode=0o600)  # SQLite would make it as open as the umask allows
    store = Store(settings.store_url, by=by, after_write=Witness(home, settings.audit.witness).look)
    store.migrate(lambda connection, before: adopting.adopt(connection, home, before))
    adopting.adopt_home(store, home)
    with store.read() as connection:
        known = any(key.role == "admin" for key in keys.list_all(connection))
    if not known:
        with store.write(by=SYSTEM) as connection:
            if not any(key.role == "admin" for key in keys.list_all(connection)):
                secret, _ = keys.create(connection, "admin", role="admin")
                # Before the commit: a crash leaves a key that is not valid yet, and the next start makes another.
                write_atomically(home.admin_key, secret.encode() + b"\n", mode=0o600)
    return store
