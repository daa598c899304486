"""From checked claims to a principal: the first grant that matches says which role and team."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sumika.models.errors import SumikaError, quoted
from sumika.models.oidc_settings import Grant, IssuerSettings, OidcSettings
from sumika.models.principals import Principal

_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,80}", re.ASCII)
_LONGEST_NAME = 64


def principal(issuer: IssuerSettings, claims: dict[str, Any]) -> Principal | None:
    """None where no grant matches. The subject at its issuer is the identity; names and addresses are not."""
    groups, email = _groups(claims.get(issuer.groups_claim)), _email(claims)
    for grant in issuer.grants:
        if _matches(grant, groups, email):
            return Principal(identity(issuer, claims), _name(claims), grant.role, grant.team)
    return None


def unplaced(issuer: IssuerSettings, claims: dict[str, Any]) -> SumikaError:
    """What somebody is told whom the issuer knows and no grant matches: with the cause, where it is one of the issuer's set-up."""
    claim = issuer.groups_claim
    why = _unlisted(claims, claim)
    if why is not None:
        return SumikaError(
            "groups_not_listed",
            f"You are signed in at your company, but your groups can't be read from the token: {why[0]}. Ask your administrator to have the sign-in service "
            f"list only the groups of this application in the claim '{quoted(claim, 64)}' (docs/access.md).",
            f"認証は成功しましたが、トークンからグループを読み取れません({why[1]})。クレーム「{quoted(claim, 64)}」にこのアプリケーションのグループだけを"
            "一覧で入れるよう、管理者に依頼してください(docs/access.md)。",
            status=403,
        )  # fmt: skip
    return SumikaError(
        "no_role",
        "You are signed in at your company, but nobody has given you a role here. Ask your administrator.",
        "認証は成功しましたが、このサービスでの役割が割り当てられていません。管理者に依頼してください。",
        status=403,
    )


def _unlisted(claims: dict[str, Any], claim: str) -> tuple[str, str] | None:
    """Why the groups of a token can't be read; None where they can, or where there are none."""
    elsewhere = claims.get("_claim_names")
    # Entra ID, for members of more groups than a token holds: it names an address in place of the groups, which we do not ask.
    if claims.get("hasgroups") is True or (isinstance(elsewhere, dict) and claim in elsewhere):
        return "you are in more groups than the token holds", "所属グループがトークンに入る数を超えています"
    if claim in claims and not _is_list(claims[claim]):
        return "they are no list of texts", "文字列の一覧になっていません"
    return None


def placed(principal: Principal, teams: Mapping[str, str]) -> Principal:
    """`principal` in the team that bears its grant's name now (`teams`: ids by name); without one where there is no such team."""
    team_id = None if principal.team is None else teams.get(principal.team)
    return replace(principal, team=principal.team if team_id else None, team_id=team_id)


def identity(issuer: IssuerSettings, claims: dict[str, Any]) -> str:
    """`oidc:ISSUER:SUBJECT`, at most 128 characters. A subject that is long or strange stands as its hash, which ':' tells
    from one that is spelled that way; none is ever cut."""
    subject: str = claims[issuer.subject_claim]
    if not _PLAIN.fullmatch(subject):
        subject = f"sha256:{hashlib.sha256(subject.encode(errors='replace')).hexdigest()}"
    return f"oidc:{issuer.name}:{subject}"


def still_granted(settings: OidcSettings, principal: Principal) -> bool:
    """Whether whoever signed in as `principal` could do so still, as far as the settings go: its issuer is there, and a grant
    of its role and team. Groups that changed at the issuer show at the next sign-in."""
    issuer = next((one for one in settings.issuers if principal.id.startswith(f"oidc:{one.name}:")), None)
    return issuer is not None and any((grant.role, grant.team) == (principal.role, principal.team) for grant in issuer.grants)


def _matches(grant: Grant, groups: frozenset[str], email: str | None) -> bool:
    """Character by character: a look-alike is another group."""
    return grant.group in groups if grant.group is not None else email is not None and grant.email == email


def _groups(value: Any) -> frozenset[str]:
    """None in what is no list of texts: 'admins' as one text is not the group admins."""
    return frozenset(value) if _is_list(value) else frozenset()


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _email(claims: dict[str, Any]) -> str | None:
    email = claims.get("email")
    return email if isinstance(email, str) and claims.get("email_verified") is True else None


def _name(claims: dict[str, Any]) -> str:
    for claim in ("preferred_username", "name", "email"):
        if isinstance(name := claims.get(claim), str) and name.isprintable() and name:
            return name[:_LONGEST_NAME]
    return ""
