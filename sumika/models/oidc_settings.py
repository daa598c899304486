"""Settings of the issuers (Keycloak, Entra ID, Google, …) whose people and programs may come. docs/access.md explains each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sumika.models import addresses
from sumika.models.errors import quoted
from sumika.models.principals import Role

# Signatures only: with a shared secret (HS…) whoever checks a token can also make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]

MOST_LEEWAY_S = 60
_Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
_Team = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


def check_url(url: str) -> str:
    """`url`, where it is https; plain http is for this machine alone.

    Raises:
        ValueError: for any other, and for one that two programs might read in two ways (`addresses`).
    """
    try:
        address = addresses.parse(url, query=True)
    except ValueError as error:
        raise ValueError(f"'{quoted(url)}' {error}") from None
    if address.scheme != "https" and not address.is_loopback:
        raise ValueError(f"'{quoted(url)}' must be an https:// address")
    return url


def _origin(url: str) -> str:
    """As browsers write it into `Origin`: no path, a host in small letters, no port that the scheme implies (RFC 6454)."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    implied = parts.port in (None, {"https": 443, "http": 80}[parts.scheme])
    return f"{parts.scheme}://{host}" + ("" if implied else f":{parts.port}")


class Grant(BaseModel):
    """One line of who gets what: by a group of the groups claim, or by an e-mail address that the issuer has verified."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: _Text | None = None
    email: _Text | None = None
    role: Role
    team: _Team | None = None

    @model_validator(mode="after")
    def _by_one(self) -> Grant:
        if (self.group is None) == (self.email is None):
            raise ValueError("a grant names a group or an email, one of them")
        return self


class IssuerSettings(BaseModel):
    """One issuer. `audience`: what its access tokens for Sumika are made out to; `client_id`: the console's. `clients`: whose access tokens are
    taken beside; where there are any, a token must say who asked for it, in `client_claim` where that is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    issuer: _Text
    audience: _Text
    client_id: _Text
    client_secret_file: Path | None = None
    clients: list[_Text] = Field(default_factory=list, max_length=100)
    client_claim: _Text | None = None
    algorithms: list[Algorithm] = Field(default=["RS256"], min_length=1)
    subject_claim: Literal["sub", "oid"] = "sub"
    groups_claim: _Text = "groups"
    required_claims: dict[_Text, _Text] = Field(default_factory=dict)
    scopes: list[_Text] = ["openid", "profile", "email"]
    leeway_s: int = Field(default=30, ge=0, le=MOST_LEEWAY_S)
    grants: list[Grant] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> IssuerSettings:
        if "?" in check_url(self.issuer):
            raise ValueError("an issuer has no ? in its address (OpenID Connect Discovery 1.0, section 3)")
        if self.audience in (self.client_id, *self.clients):
            raise ValueError("audience must differ from client_id and clients, or an ID token would pass for an access token")
        if "openid" not in self.scopes:
            raise ValueError("scopes must hold openid")
        return self


class OidcSettings(BaseModel):
    """`public_url`: where people's browsers reach the gateway, for example https://ai.example.co.jp; needed to sign in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_url: str | None = None
    issuers: list[IssuerSettings] = Field(default_factory=list, max_length=16)

    @model_validator(mode="after")
    def _consistent(self) -> OidcSettings:
        if self.public_url is not None and self.public_url != _origin(check_url(self.public_url)):
            raise ValueError(f"public_url is compared with what browsers say, who spell it {_origin(self.public_url)}")
        for what, seen in (("name", [i.name for i in self.issuers]), ("issuer", [i.issuer for i in self.issuers])):
            if len(set(seen)) != len(seen):
                raise ValueError(f"two issuers have the same {what}")
        return self
