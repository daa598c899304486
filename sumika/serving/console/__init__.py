"""`/console`: pages for people, over the admin API and nothing else. `access.TABLE` says who may see and do what."""

from __future__ import annotations

from fastapi import APIRouter

from sumika.models.oidc_settings import OidcSettings
from sumika.serving.access import CONSOLE
from sumika.serving.console import (
    audit,
    costs,
    deployments,
    keys,
    models,
    overview,
    playground,
    prices,
    sessions,
    sign_in,
    static,
    teams,
    training,
    usage,
)
from sumika.serving.console.api import Api
from sumika.serving.console.pages import Pages
from sumika.serving.console.sign_in import KeyHolders


def router(pages: Pages, api: Api, oidc: OidcSettings, holders: KeyHolders) -> APIRouter:
    """All pages; `holders` turn a pasted key into a session."""
    made = APIRouter()
    made.include_router(static.router(), prefix=CONSOLE)
    made.include_router(sign_in.router(pages, oidc, holders), prefix=CONSOLE)
    for part in (overview, models, deployments, playground, training, keys, teams, sessions, usage, costs, prices, audit):
        made.include_router(part.router(pages, api), prefix=CONSOLE)
    return made
