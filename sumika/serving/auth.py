"""Who asks: one token from the headers, told by the first authenticator that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.types import Scope

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving.replies import ANTHROPIC_PATHS

# An access token of an issuer who puts every group into it takes a few kilobytes.
_LONGEST_HEADER = 16 * 1024


class Authenticator(Protocol):
    """One way to tell who holds a token."""

    async def identify(self, token: str) -> Principal | None:
        """None for whatever it does not take, whyever: nobody is told the reason."""


async def authenticate(scope: Scope, authenticators: Sequence[Authenticator]) -> Principal:
    """Who sent this request.

    Raises:
        SumikaError: `invalid_api_key` (401), the same for none, malformed, unknown, expired and revoked; what an
            authenticator raises that could not find out.
    """
    token = _token(scope)
    if token is not None:
        for authenticator in authenticators:
            principal = await authenticator.identify(token)
            if principal is not None:
                return principal
    raise unknown()


def _token(scope: Scope) -> str | None:
    """The one that is given; Anthropic's clients send a key bare, as `x-api-key`."""
    names = (b"authorization", b"x-api-key") if scope["path"] in ANTHROPIC_PATHS else (b"authorization",)
    given = [(name, value) for name, value in scope["headers"] if name in names]
    if len(given) != 1 or len(given[0][1]) > _LONGEST_HEADER:
        return None
    name, value = given[0][0], str(given[0][1], "latin-1")
    if name == b"x-api-key":
        return value.strip(" ")
    scheme, _, token = value.partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None


def unknown() -> SumikaError:
    return SumikaError(
        "invalid_api_key",
        "The API key is missing or not valid. Send 'Authorization: Bearer sk-sumika-…'; an administrator makes keys with 'sumika keys create'.",
        "APIキーがないか、無効です。「Authorization: Bearer sk-sumika-…」を付けてください。キーは管理者が sumika keys create で発行します。",
        status=401,
    )
