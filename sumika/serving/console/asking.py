"""What the handlers of all pages share: who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from sumika.models.principals import Principal


def _asker(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


Asker = Annotated[Principal, Depends(_asker)]
# Rows of a list on one page.
ROWS = 25
