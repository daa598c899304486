"""Principals: who may act, as what, and how far. Nobody makes another one that reaches further than they do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar, get_args

from sumika.models.errors import SumikaError, quoted

Role = Literal["admin", "engineer", "app"]
# What of the gateway a scope may name; `admin` is everything under /admin/.
Endpoint = Literal[
    "chat", "completions", "embeddings", "rerank", "responses", "messages", "tokenize", "models", "files", "batches", "fine_tuning",
    "metrics", "admin",
]  # fmt: skip
# How confidential the data of a request may be, from the least to the most.
Sensitivity = Literal["public", "internal", "confidential"]

ROLES: tuple[Role, ...] = get_args(Role)
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
SENSITIVITIES: tuple[Sensitivity, ...] = get_args(Sensitivity)
# What a request counts as that does not say, and what a key may send where nobody said otherwise.
USUAL: Sensitivity = "internal"
# Owner of what was made at the command line: administrators alone see it.
OPERATOR = "operator"

_One = TypeVar("_One", bound=str)


@dataclass(frozen=True, slots=True)
class Scopes:
    """How far a principal reaches within its role. None: no limit beyond the role's."""

    aliases: frozenset[str] | None = None
    endpoints: frozenset[Endpoint] | None = None
    sensitivity: Sensitivity = "confidential"


EVERYTHING = Scopes()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `id`: a key's id, or `oidc:ISSUER:SUBJECT`; `name` is for people to read and decides nothing.
    `until`: when what it showed ends; None: not by itself. `team` is a name, which another team may bear later; `team_id` is never
    another's. `source`: the address that this request came from, for the audit log alone."""

    id: str
    name: str
    role: Role
    team: str | None = None
    scopes: Scopes = EVERYTHING
    until: datetime | None = None
    team_id: str | None = None
    source: str = field(default="", compare=False)

    @property
    def owner(self) -> str:
        """Whose is what it makes: its team's; without a team its own."""
        return self.team_id if self.team_id is not None else f"key:{self.id}"

    def may_see(self, owner: str | None) -> bool:
        """Whether what `owner` owns is shown to it; None: everybody's."""
        return owner is None or self.may_change(owner)

    def may_change(self, owner: str | None) -> bool:
        """Whether it may act on what `owner` owns; what is everybody's is changed by administrators."""
        return self.role == "admin" or owner == self.owner

    def may_use(self, alias: str) -> bool:
        return self.scopes.aliases is None or alias in self.scopes.aliases

    def may_reach(self, endpoint: Endpoint) -> bool:
        return self.scopes.endpoints is None or endpoint in self.scopes.endpoints

    def may_send(self, sensitivity: Sensitivity) -> bool:
        return _rank(sensitivity) <= _rank(self.scopes.sensitivity)

    def may_manage(self, role: Role, team_id: str | None) -> bool:
        """Whether keys of `role` and a team are this one's to see and end: an administrator's all, an engineer's the apps of
        their own team."""
        return self.role == "admin" or (
            self.role == "engineer" and role == "app" and team_id is not None and team_id == self.team_id
        )


def as_json(principal: Principal) -> dict[str, Any]:
    """For a process of ours that acts as `principal`: who it is and how far it reaches."""
    scopes = principal.scopes
    return {
        "id": principal.id, "role": principal.role, "team": principal.team, "team_id": principal.team_id, "sensitivity": scopes.sensitivity,
        "aliases": None if scopes.aliases is None else sorted(scopes.aliases),
    }  # fmt: skip


def from_json(data: dict[str, Any]) -> Principal:
    """Whom `as_json` wrote down."""
    aliases = None if data["aliases"] is None else frozenset(data["aliases"])
    scopes = Scopes(aliases, sensitivity=data["sensitivity"])
    return Principal(data["id"], "", data["role"], data["team"], scopes, team_id=data["team_id"])


def check_within(creator: Principal, role: Role, team: str | None, scopes: Scopes, until: datetime | None) -> None:
    """Refuse whatever would reach further than `creator` does.

    Raises:
        SumikaError: `wider_than_creator` (403); `param` is the field that is too wide.
    """
    own = creator.scopes
    if ROLES.index(role) < ROLES.index(creator.role):
        raise _wider("role", role)
    if creator.role != "admin" and (creator.role != "engineer" or role != "app" or team is None or team != creator.team):
        raise _wider("team" if role == "app" and creator.role == "engineer" else "role", team or role)
    if own.aliases is not None and (scopes.aliases is None or not scopes.aliases <= own.aliases):
        raise _wider("aliases", "*" if scopes.aliases is None else ", ".join(sorted(scopes.aliases - own.aliases)))
    if own.endpoints is not None and (scopes.endpoints is None or not scopes.endpoints <= own.endpoints):
        raise _wider("endpoints", "*" if scopes.endpoints is None else ", ".join(sorted(scopes.endpoints - own.endpoints)))
    if not creator.may_send(scopes.sensitivity):
        raise _wider("sensitivity", scopes.sensitivity)
    if creator.until is not None and (until is None or until > creator.until):
        raise _wider("expires_at", "never" if until is None else until.isoformat())


def one_of(known: tuple[_One, ...], given: str, field: str) -> _One:
    """`given`, where it is one of `known`.

    Raises:
        SumikaError: `bad_value`.
    """
    for value in known:
        if value == given:
            return value
    raise SumikaError(
        "bad_value",
        f"{field}: '{quoted(given)}' is not one of {', '.join(known)}.",
        f"{field}: 「{quoted(given)}」は指定できません。{', '.join(known)} から選んでください。",
        param=field,
    )


def all_of(known: tuple[_One, ...], given: Iterable[str], field: str) -> frozenset[_One]:
    """Raises SumikaError `bad_value`."""
    return frozenset(one_of(known, value, field) for value in given)


def _rank(sensitivity: Sensitivity) -> int:
    return SENSITIVITIES.index(sensitivity)


def _wider(field: str, value: str) -> SumikaError:
    return SumikaError(
        "wider_than_creator",
        f"{field}: {quoted(value)} reaches further than you do. Give less, or ask an administrator.",
        f"{field}: {quoted(value)} はご自身の権限を超えています。範囲を狭めるか、管理者に依頼してください。",
        status=403,
        param=field,
    )
