"""Who asks: one Bearer token from the header, told by the first authenticator that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.types import Scope

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal

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
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) == 1 and len(given[0]) <= _LONGEST_HEADER:
        scheme, _, token = given[0].decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            token = token.strip(" ")
            for authenticator in authenticators:
                principal = await authenticator.identify(token)
                if principal is not None:
                    return principal
    raise unknown()


def unknown() -> SumikaError:
    return SumikaError(
        "invalid_api_key",
        "The API key is missing or not valid. Send 'Authorization: Bearer sk-sumika-…'; an administrator makes keys with 'sumika keys create'.",
        "APIキーがないか、無効です。「Authorization: Bearer sk-sumika-…」を付けてください。キーは管理者が sumika keys create で発行します。",
        status=401,
    )
