"""A token, read strictly and believed only after its signature and every claim were checked (RFC 7519, 8725, 9068).

PyJWT checks the signature and the registered claims. Here stands what it takes and we do not: other spellings of the same
bytes, repeated names, numbers that are no whole seconds, tokens of another kind or for another client.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jwt
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import IssuerSettings
from sumika.serving.requests import read_json

LONGEST = 12 * 1024
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_LONGEST_KID = 256
_LONGEST_CLAIM = 512
# A token that is good for longer is no access token but a mistake of the issuer's set-up.
_LONGEST_LIFE_S = 48 * 3600
# Headers that change what is signed or read, or name a key of their own (RFC 7515, 4.1); none of our issuers sends one.
_REFUSED_HEADERS = frozenset({"crit", "b64", "cty", "zip", "jku", "jwk", "x5u", "x5c"})
_PLAIN_TYPES = frozenset({"jwt"})
_ACCESS_TYPES = _PLAIN_TYPES | {"at+jwt", "application/at+jwt"}
# Keycloak writes into the claims what a token is for; only ID tokens carry the hashes.
_ACCESS_KINDS = (None, "Bearer")
_ID_KINDS = (None, "ID")
_OF_ID_TOKENS = frozenset({"at_hash", "c_hash", "s_hash"})


# Who asked for an access token. `azp`: Keycloak, Entra ID v2, Google; `client_id`: RFC 9068; `appid`: Entra ID v1; `cid`: Okta.
_PARTIES = ("azp", "client_id", "appid", "cid")


class Refused(Exception):
    """Why a token is not believed, in words of ours; for the log alone."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token that is spelled right. Nothing in it is believed yet: `issuer` and `kid` say only what to check it against."""

    token: str
    kid: str
    algorithm: str
    type: str | None
    issuer: str


def read(token: str) -> Unverified:
    """Raises Refused."""
    parts = _COMPACT.fullmatch(token) if len(token) <= LONGEST else None
    if parts is None:
        raise Refused("it is no compact JWS")
    header, claims, _ = (_decoded(part) for part in parts.groups())
    head, body = _object(header), _object(claims)
    if _REFUSED_HEADERS & head.keys():
        raise Refused("its header asks for what is not supported")
    kid, algorithm, kind, issuer = head.get("kid"), head.get("alg"), head.get("typ"), body.get("iss")
    if not isinstance(kid, str) or not 0 < len(kid) <= _LONGEST_KID or not isinstance(algorithm, str):
        raise Refused("its header names no key or algorithm")
    if not (kind is None or isinstance(kind, str)) or not isinstance(issuer, str):
        raise Refused("its type or issuer is no text")
    return Unverified(token, kid, algorithm, None if kind is None else kind.lower(), issuer)


def check_access(unverified: Unverified, key: PyJWK, issuer: IssuerSettings) -> dict[str, Any]:
    """The claims of an access token for Sumika. Raises Refused."""
    claims = _verified(unverified, key, issuer, issuer.audience, _ACCESS_TYPES)
    if claims.get("typ") not in _ACCESS_KINDS or _OF_ID_TOKENS & claims.keys():
        raise Refused("it is no access token")
    if "cnf" in claims:  # RFC 7800: good only in the hands of who can prove to hold a key, which a Bearer header does not
        raise Refused("it is bound to its sender")
    if issuer.client_claim is not None:
        _check_party(claims, (issuer.client_claim,), [issuer.client_id, *issuer.clients], required=True)
    else:
        _check_party(claims, _PARTIES, [issuer.client_id, *issuer.clients], required=bool(issuer.clients))
    return claims


def check_identity(unverified: Unverified, key: PyJWK, issuer: IssuerSettings, nonce: str) -> dict[str, Any]:
    """The claims of an ID token made for our sign-in with `nonce`. Raises Refused."""
    claims = _verified(unverified, key, issuer, issuer.client_id, _PLAIN_TYPES)
    if claims.get("typ") not in _ID_KINDS:
        raise Refused("it is no ID token")
    told = claims.get("nonce")
    if not isinstance(told, str) or not hmac.compare_digest(told.encode(errors="replace"), nonce.encode()):
        raise Refused("its nonce is not that of this sign-in")
    _check_party(claims, ("azp",), [issuer.client_id])
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and "azp" not in claims:
        raise Refused("it is for several and does not say who asked for it")
    return claims


def _verified(
    unverified: Unverified, key: PyJWK, issuer: IssuerSettings, audience: str, types: Collection[str]
) -> dict[str, Any]:
    if unverified.algorithm not in issuer.algorithms or (unverified.type is not None and unverified.type not in types):
        raise Refused("its algorithm or type is not this issuer's")
    try:
        claims: dict[str, Any] = jwt.decode(
            unverified.token, key, algorithms=[unverified.algorithm], audience=audience, issuer=issuer.issuer,
            leeway=issuer.leeway_s,
            options={"require": ["iss", "aud", "sub", "exp", "iat"], "enforce_minimum_key_length": True},
        )  # fmt: skip
    except (PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise Refused(f"PyJWT: {type(error).__name__}") from None
    _check_moments(claims)
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if not all(isinstance(one, str) for one in audiences) or len(audiences) > 32:
        raise Refused("its audience is no list of texts")
    subject = claims.get(issuer.subject_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_CLAIM:
        raise Refused("it names no subject")
    for name, wanted in issuer.required_claims.items():
        if claims.get(name) != wanted:
            raise Refused(f"its claim {name} is not what the settings require")
    return claims


def _check_moments(claims: dict[str, Any]) -> None:
    """Whole seconds (`True` is a number for Python, and 1e308 too), and a life that is not absurd."""
    if any(type(claims[name]) is not int for name in ("exp", "iat", "nbf") if name in claims):
        raise Refused("a moment in it is no whole number of seconds")
    if not 0 < claims["exp"] - claims["iat"] <= _LONGEST_LIFE_S:
        raise Refused("it is good for too long")


def _check_party(claims: dict[str, Any], names: Collection[str], known: Collection[str], *, required: bool = False) -> None:
    """`required`: one of `names` is there. Raises Refused."""
    if required and not any(name in claims for name in names):
        raise Refused(f"it does not say which client asked for it ({', '.join(names)})")
    for name in names:
        if name in claims and not (isinstance(claims[name], str) and claims[name] in known):
            raise Refused(f"its {name} is not among the clients in the settings")


def _decoded(part: str) -> bytes:
    """Bytes have one spelling in base64url; others are refused, so that one token has one hash."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("a part is no base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise Refused("a part is not spelled as base64url spells it")
    return data


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = read_json(data)
    except SumikaError:
        raise Refused("a part is no JSON, or names something twice") from None
    if not isinstance(value, dict):
        raise Refused("a part is no object")
    return value
