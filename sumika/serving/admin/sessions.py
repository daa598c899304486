"""`/admin/v1/sessions`: who is signed in at the console, and ending it for them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sumika.models import audit, sessions
from sumika.models.audit import Action
from sumika.models.sessions import Session
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Limit, actor, page


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/sessions")

    @routes.get("")
    def list_sessions(limit: Limit = 50, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            rows = sessions.page(connection, after=after, limit=limit + 1)
        return page(rows, limit, lambda session: session.id, Session.shown)

    @routes.delete("/{session_id}")
    def end(who: Asker, session_id: str) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.SESSION_END, session_id[:64], by), store.write(by=by) as connection:
            sessions.end_named(connection, session_id)
        return {"id": session_id, "ended": True}

    return routes
