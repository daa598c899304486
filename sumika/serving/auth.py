"""Who asks: one token from the headers, told by the first authenticator that knows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from starlette.types import Scope

from sumika.models import keys
from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving.replies import ANTHROPIC_PATHS

# An access token of an issuer who puts every group into it takes a few kilobytes. Longer ones are read to say so.
_LONGEST_HEADER = 64 * 1024
_KEY = re.compile(rb"sk-sumika-[0-9A-Za-z]{49}(?![0-9A-Za-z])")


class Authenticator(Protocol):
    """One way to tell who holds a token."""

    async def identify(self, token: str) -> Principal | None:
        """None for whatever it does not take, whyever: nobody is told the reason."""


@runtime_checkable
class Explaining(Protocol):
    """An authenticator that knows more of some tokens than that it does not take them."""

    def explain(self, token: str) -> SumikaError | None:
        """What to tell in place of `invalid_api_key`; None, as a rule: whoever tries tokens learns nothing."""


async def authenticate(scope: Scope, authenticators: Sequence[Authenticator]) -> Principal:
    """Who sent this request.

    Raises:
        SumikaError: `invalid_api_key` (401), the same for none, malformed, unknown, expired and revoked; what an
            authenticator raises that could not find out, or tells of a good token (`explain`).
    """
    principal = await identify(scope, authenticators)
    if principal is None:
        raise unknown()
    return principal


async def identify(scope: Scope, authenticators: Sequence[Authenticator]) -> Principal | None:
    """The same; None in place of `invalid_api_key`."""
    token = _token(scope)
    if token is not None:
        for authenticator in authenticators:
            principal = await authenticator.identify(token)
            if principal is not None:
                return principal
        for authenticator in authenticators:
            if isinstance(authenticator, Explaining) and (error := authenticator.explain(token)) is not None:
                raise error
    return None


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


def misplaced(text: bytes) -> bool:
    """Whether a key of ours stands in `text`, a query or a body, where nobody looks for one and others may keep it."""
    return any(keys.well_formed(found.decode("ascii")) for found in _KEY.findall(text))


def in_the_wrong_place() -> SumikaError:
    """The same whether the key is valid or not."""
    return SumikaError(
        "invalid_api_key",
        "The API key was sent in the query or the body, where it is not taken, and proxies may have logged it. Rotate it ('sumika keys rotate') "
        "and send the new one as 'Authorization: Bearer sk-sumika-…'.",
        "APIキーがクエリまたは本文に含まれています。この方法では使えず、途中のプロキシのログに残った可能性があります。sumika keys rotate でキーを更新し、"
        "「Authorization: Bearer sk-sumika-…」で送ってください。",
        status=401,
    )


def unknown() -> SumikaError:
    return SumikaError(
        "invalid_api_key",
        "The API key is missing or not valid. Send 'Authorization: Bearer sk-sumika-…'; an administrator makes keys with 'sumika keys create'.",
        "APIキーがないか、無効です。「Authorization: Bearer sk-sumika-…」を付けてください。キーは管理者が sumika keys create で発行します。",
        status=401,
    )
