"""The table: which role may call which route, give which of its fields, and what its path names. Whatever has no row is not there.

`Gate` enforces it before any handler runs, on `scope["path"]`: what a client says of the host decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from starlette.routing import compile_path

from sumika.models.audit import Action
from sumika.models.errors import SumikaError, quoted
from sumika.models.prices import FIGURES, Prices
from sumika.models.principals import ROLES, Endpoint, Principal, Role
from sumika.serving import requests

Roles = frozenset[Role]
Fields = dict[str, Roles]
# What a path may name that has an owner (`ownership.py` checks it); `model`: an alias that is called, not governed.
Owned = Literal["alias", "batch", "file", "job", "key", "model", "move", "tuning", "version"]
PLACES: Mapping[Owned, str] = {
    "alias": "alias", "batch": "batch_id", "file": "file_id", "job": "job_id", "key": "key_id", "model": "alias", "move": "move_id",
    "tuning": "job_id", "version": "ref",
}  # fmt: skip
_PLACE = re.compile(r"\{(\w+)\}")
# Of the console's paths: which act, and which file of the program.
_NO_THINGS = ("act", "file")

ALL: Roles = frozenset(ROLES)
STAFF: Roles = frozenset({"admin", "engineer"})
ADMIN: Roles = frozenset({"admin"})
_NOBODY: Roles = frozenset()
CONSOLE = "/console"


def at_console(path: str) -> bool:
    """Whether `path` is a page's, which speaks to people."""
    return path == CONSOLE or path.startswith(f"{CONSOLE}/")


@dataclass(frozen=True)
class Rule:
    """One route. `endpoint` is what a key's scope calls it; None: open to whoever comes, signed in or not.
    `fields`: of the body and the query, and who may give each. `form`: its body is a page's form, not JSON.
    `owned`: what its path names; `action`: what the audit log calls it, for an act that is refused because of that."""

    method: str
    path: str
    endpoint: Endpoint | None = None
    roles: Roles = _NOBODY
    fields: Fields = field(default_factory=dict)
    form: bool = False
    owned: tuple[Owned, ...] = ()
    action: Action | None = None

    def __post_init__(self) -> None:
        """Whoever adds a route says whose is what its path names; for administrators alone nobody need ask. Pages reach everything
        through the admin API's own rows, and call what they name as those do, so that the tests try them by it."""
        unsaid = set(_PLACE.findall(self.path)) - {PLACES[kind] for kind in self.owned}
        if at_console(self.path):
            unsaid -= {*PLACES.values(), *_NO_THINGS}
        if unsaid and (self.roles - ADMIN or self.endpoint is None):
            raise ValueError(f"{self.method} {self.path}: say in `owned` what {sorted(unsaid)} name")

    @property
    def acts(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return compile_path(self.path)[0]

    def names(self, path: str) -> dict[str, str]:
        """What `path` gives for each place of this rule's."""
        found = self._pattern.match(path)
        return found.groupdict() if found else {}

    @property
    def administers(self) -> bool:
        return self.endpoint == "admin"

    @property
    def looks_inside(self) -> bool:
        """Whether the gate reads query and body and holds them against `fields`; elsewhere the handler does."""
        return self.endpoint in ("admin", "batches", "fine_tuning") or (self.endpoint == "files" and self.method != "POST")

    @property
    def takes_json(self) -> bool:
        """Whether its body is JSON and never absent; that of others is looked at where it is read."""
        return self.method == "POST" and not self.looks_inside and self.endpoint not in (None, "files")

    @property
    def by_session(self) -> bool:
        """Whether what a browser holds as a cookie opens it: what the console shows and asks."""
        return self.endpoint in ("admin", "chat", "models")


def _each(names: Iterable[str], roles: Roles) -> Fields:
    return dict.fromkeys(names, roles)


_PAGE = ("limit", "after")
_BATCH = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_TUNING = ("model", "training_file", "validation_file", "hyperparameters", "method", "suffix", "seed", "metadata", "integrations")
_TUNINGS = "/v1/fine_tuning/jobs"
_ADMIN_API = "/admin/v1"
_ALIAS = f"{_ADMIN_API}/aliases/{{alias}}"
_REASON = _each(["reason"], STAFF)
_JOB = f"{_ADMIN_API}/jobs/{{job_id}}"
_LIMITS = ("requests_per_minute", "tokens_per_minute", "streams", "tokens_per_month", "weight", "priority")
_AUDIT = ("actor", "action", "object", "since", "until")
# The form of the price sheet: a column of each for the APIs, and for the servers.
_SHEET = (
    "date", "yen_per_usd", "yen_per_usd_source", "api", "vendor", "currency", "input", "output", "cached", "api_source", "server",
    *FIGURES, *(f"{name}_source" for name in FIGURES),
)  # fmt: skip
_OVERRIDE = _each(["override"], ADMIN)
_WISH = _REASON | _OVERRIDE | _each(["version"], STAFF)


def by_a_person(path: str, accept: str) -> bool:
    """Whether somebody looks at the answer: at a page, or at a browser's way to an issuer and back."""
    return at_console(path) or (path.startswith("/auth/") and "text/html" in accept)


def _view(page: str, roles: Roles, *fields: str) -> Rule:
    """A page of the console, and what its address may ask."""
    return Rule("GET", f"{CONSOLE}/{page}", "admin", roles, _each(fields, roles))


def _act(page: str, roles: Roles, *fields: str) -> Rule:
    """A form of the console."""
    return Rule("POST", f"{CONSOLE}/{page}", "admin", roles, _each(fields, roles), form=True)


TABLE: tuple[Rule, ...] = (
    Rule("GET", "/health/live"),
    Rule("GET", "/health/ready"),
    Rule("GET", "/auth/login"),
    Rule("GET", "/auth/callback"),
    Rule("POST", "/auth/logout"),
    Rule("POST", "/v1/chat/completions", "chat", ALL, _each(requests.ChatRequest.model_fields, ALL)),
    Rule("POST", "/v1/completions", "completions", ALL, _each(requests.CompletionRequest.model_fields, ALL)),
    Rule("POST", "/v1/embeddings", "embeddings", ALL, _each(requests.EmbeddingRequest.model_fields, ALL)),
    Rule("POST", "/v1/rerank", "rerank", ALL, _each(requests.RerankRequest.model_fields, ALL)),
    Rule("POST", "/v1/tokenize", "tokenize", ALL, _each(requests.TokenizeRequest.model_fields, ALL)),
    Rule("POST", "/v1/detokenize", "tokenize", ALL, _each(requests.DetokenizeRequest.model_fields, ALL)),
    Rule("POST", "/v1/responses", "responses", ALL, _each(requests.ResponsesRequest.model_fields, ALL)),
    Rule("POST", "/v1/messages", "messages", ALL, _each(requests.MessagesRequest.model_fields, ALL)),
    Rule("POST", "/v1/messages/count_tokens", "messages", ALL, _each(requests.CountTokensRequest.model_fields, ALL)),
    Rule("POST", "/v1/files", "files", ALL, _each(["file", "purpose", "expires_after"], ALL)),
    Rule("GET", "/v1/files", "files", ALL, _each([*_PAGE, "order", "purpose"], ALL)),
    Rule("GET", "/v1/files/{file_id}", "files", ALL, owned=("file",)),
    Rule("DELETE", "/v1/files/{file_id}", "files", ALL, owned=("file",), action=Action.FILE_REMOVE),
    Rule("GET", "/v1/files/{file_id}/content", "files", ALL, owned=("file",)),
    Rule("POST", "/v1/batches", "batches", ALL, _each(_BATCH, ALL)),
    Rule("GET", "/v1/batches", "batches", ALL, _each(_PAGE, ALL)),
    Rule("GET", "/v1/batches/{batch_id}", "batches", ALL, owned=("batch",)),
    Rule("POST", "/v1/batches/{batch_id}/cancel", "batches", ALL, owned=("batch",), action=Action.BATCH_CANCEL),
    Rule("POST", _TUNINGS, "fine_tuning", STAFF, _each(_TUNING, STAFF)),
    Rule("GET", _TUNINGS, "fine_tuning", STAFF, _each(_PAGE, STAFF)),
    Rule("GET", f"{_TUNINGS}/{{job_id}}", "fine_tuning", STAFF, owned=("tuning",)),
    Rule("POST", f"{_TUNINGS}/{{job_id}}/cancel", "fine_tuning", STAFF, owned=("tuning",), action=Action.JOB_CANCEL),
    Rule("GET", f"{_TUNINGS}/{{job_id}}/events", "fine_tuning", STAFF, _each(_PAGE, STAFF), owned=("tuning",)),
    Rule("GET", f"{_TUNINGS}/{{job_id}}/checkpoints", "fine_tuning", STAFF, _each(_PAGE, STAFF), owned=("tuning",)),
    Rule("GET", "/v1/models", "models", ALL),
    Rule("GET", "/v1/models/{alias}", "models", ALL, owned=("model",)),
    Rule("GET", "/openapi.json", "models", ALL),
    Rule("GET", "/metrics", "metrics", ADMIN),
    Rule("GET", "/metrics/engines", "metrics", ADMIN),
    Rule("GET", f"{_ADMIN_API}/me", "admin", ALL),
    Rule("GET", f"{_ADMIN_API}/keys", "admin", STAFF, _each([*_PAGE, "team"], STAFF)),
    Rule("POST", f"{_ADMIN_API}/keys", "admin", STAFF,
         _each(["name", "team", "aliases", "endpoints", "sensitivity", "expires_at"], STAFF) | _each(["role"], ADMIN)),
    Rule("GET", f"{_ADMIN_API}/keys/{{key_id}}", "admin", STAFF, owned=("key",)),
    Rule("POST", f"{_ADMIN_API}/keys/{{key_id}}/rotate", "admin", STAFF, _each(["overlap_s"], STAFF), owned=("key",), action=Action.KEY_ROTATE),
    Rule("POST", f"{_ADMIN_API}/keys/{{key_id}}/revoke", "admin", STAFF, owned=("key",), action=Action.KEY_REVOKE),
    Rule("GET", f"{_ADMIN_API}/teams", "admin", STAFF, _each(_PAGE, STAFF)),
    Rule("POST", f"{_ADMIN_API}/teams", "admin", ADMIN, _each(["name", "title"], ADMIN)),
    Rule("DELETE", f"{_ADMIN_API}/teams/{{name}}", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/sessions", "admin", ADMIN, _each(_PAGE, ADMIN)),
    Rule("DELETE", f"{_ADMIN_API}/sessions/{{session_id}}", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/aliases", "admin", STAFF, _each(_PAGE, STAFF)),
    Rule("GET", _ALIAS, "admin", STAFF, owned=("alias",)),
    Rule("DELETE", _ALIAS, "admin", STAFF, _REASON, owned=("alias",), action=Action.ALIAS_REMOVE),
    Rule("POST", f"{_ALIAS}/deploy", "admin", STAFF, _WISH, owned=("alias",), action=Action.ALIAS_DEPLOY),
    Rule("POST", f"{_ALIAS}/canary", "admin", STAFF, _WISH | _each(["share"], STAFF), owned=("alias",), action=Action.ALIAS_CANARY),
    Rule("POST", f"{_ALIAS}/promote", "admin", STAFF, _REASON | _OVERRIDE, owned=("alias",), action=Action.ALIAS_PROMOTE),
    Rule("POST", f"{_ALIAS}/rollback", "admin", STAFF, _REASON | _OVERRIDE, owned=("alias",), action=Action.ALIAS_ROLLBACK),
    Rule("POST", f"{_ALIAS}/owner", "admin", ADMIN, _each(["team"], ADMIN)),
    Rule("POST", f"{_ALIAS}/abort", "admin", STAFF, _REASON, owned=("alias",), action=Action.ALIAS_ABORT),
    Rule("GET", f"{_ADMIN_API}/moves", "admin", STAFF, _each([*_PAGE, "alias"], STAFF)),
    Rule("GET", f"{_ADMIN_API}/moves/{{move_id}}", "admin", STAFF, owned=("move",)),
    Rule("GET", f"{_ADMIN_API}/versions", "admin", STAFF, _each([*_PAGE, "name"], STAFF)),
    Rule("GET", f"{_ADMIN_API}/versions/{{ref}}", "admin", STAFF, owned=("version",)),
    Rule("POST", f"{_ADMIN_API}/versions/{{ref}}/owner", "admin", ADMIN, _each(["team"], ADMIN)),
    Rule("GET", f"{_ADMIN_API}/versions/{{ref}}/export", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/imports", "admin", STAFF),
    Rule("POST", f"{_ADMIN_API}/imports", "admin", ADMIN, _each(["source", "name", "base"], ADMIN)),
    Rule("GET", f"{_ADMIN_API}/status", "admin", STAFF),
    Rule("GET", f"{_ALIAS}/plan", "admin", STAFF, _each(["version"], STAFF), owned=("alias",)),
    Rule("GET", f"{_ADMIN_API}/limits", "admin", STAFF, _each(_PAGE, STAFF)),
    Rule("POST", f"{_ADMIN_API}/limits/{{kind}}/{{name}}", "admin", ADMIN, _each(_LIMITS, ADMIN)),
    Rule("DELETE", f"{_ADMIN_API}/limits/{{kind}}/{{name}}", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/usage", "admin", STAFF, _each([*_PAGE, "by", "since", "until"], STAFF)),
    Rule("GET", f"{_ADMIN_API}/usage/csv", "admin", STAFF, _each(["by", "since", "until"], STAFF)),
    Rule("GET", f"{_ADMIN_API}/activity", "admin", STAFF),
    Rule("GET", f"{_ADMIN_API}/costs", "admin", ADMIN, _each(["month", "server"], ADMIN)),
    Rule("GET", f"{_ADMIN_API}/prices", "admin", ADMIN),
    Rule("POST", f"{_ADMIN_API}/prices", "admin", ADMIN, _each(Prices.model_fields, ADMIN)),
    Rule("DELETE", f"{_ADMIN_API}/prices", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/audit", "admin", ADMIN, _each([*_PAGE, *_AUDIT], ADMIN)),
    Rule("GET", f"{_ADMIN_API}/audit/verify", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/audit/export", "admin", ADMIN),
    Rule("GET", f"{_ADMIN_API}/jobs", "admin", STAFF, _each(_PAGE, STAFF)),
    Rule("POST", f"{_ADMIN_API}/jobs", "admin", STAFF, _each(["config", "priority"], STAFF)),
    Rule("POST", f"{_ADMIN_API}/jobs/check", "admin", STAFF, _each(["config", "priority"], STAFF)),
    Rule("GET", f"{_ADMIN_API}/jobs/templates", "admin", STAFF),
    Rule("GET", _JOB, "admin", STAFF, owned=("job",)),
    Rule("GET", f"{_JOB}/metrics", "admin", STAFF, owned=("job",)),
    Rule("GET", f"{_JOB}/log", "admin", STAFF, owned=("job",)),
    Rule("POST", f"{_JOB}/cancel", "admin", STAFF, owned=("job",), action=Action.JOB_CANCEL),
    Rule("POST", f"{_JOB}/resume", "admin", STAFF, owned=("job",), action=Action.JOB_RESUME),
    # The console: pages over the routes above, which decide again what each act of a page may do.
    Rule("GET", f"{CONSOLE}/sign-in"),
    Rule("POST", f"{CONSOLE}/sign-in"),
    Rule("GET", f"{CONSOLE}/static/{{file}}"),
    Rule("GET", CONSOLE, "models", ALL),
    Rule("GET", f"{CONSOLE}/playground", "chat", ALL),
    _view("overview", STAFF),
    _view("overview/live", STAFF),
    _view("models", STAFF, *_PAGE),
    _view("models/compare", STAFF, "a", "b"),
    _view("models/imports", STAFF),
    _act("models", ADMIN, "source", "name", "base"),
    _view("models/{ref}", STAFF),
    _view("deployments", STAFF, "after", "before"),
    _view("swap", STAFF, "alias", "version"),
    _view("swap/plan", STAFF, "alias", "version"),
    _act("swap", STAFF, "alias", "version", "share", "how", "reason", "override"),
    _view("deployments/{alias}", STAFF, "after"),
    _view("deployments/{alias}/moves/{move_id}", STAFF),
    _act("deployments/{alias}/remove", STAFF, "reason"),
    Rule("POST", f"{CONSOLE}/deployments/{{alias}}/{{act}}", "admin", STAFF, _REASON | _OVERRIDE, form=True),
    _view("training", STAFF, *_PAGE),
    _view("training/new", STAFF, "template", "job"),
    _view("training/compare", STAFF, "a", "b"),
    _view("training/{job_id}", STAFF),
    _view("training/{job_id}/live", STAFF),
    _act("training/new", STAFF, "config", "priority", "check"),
    _act("training/{job_id}/{act}", STAFF),
    _view("keys", STAFF, *_PAGE, "team"),
    _view("keys/{key_id}", STAFF),
    _act("keys", STAFF, "name", "role", "team", "aliases", "endpoints", "sensitivity", "expires_at"),
    _act("keys/{key_id}/{act}", STAFF, "overlap_s"),
    _view("teams", STAFF, *_PAGE),
    _act("teams", ADMIN, "name", "title"),
    _act("teams/{name}/remove", ADMIN),
    _act("limits/{kind}/{name}", ADMIN, *_LIMITS),
    _view("sessions", ADMIN, *_PAGE),
    _act("sessions/{session_id}/end", ADMIN),
    _view("usage", STAFF, "by", "since", "until", "after"),
    _view("costs", ADMIN, "month", "server"),
    _view("costs/prices", ADMIN),
    _act("costs/prices", ADMIN, *_SHEET),
    _act("costs/prices/reset", ADMIN),
    _view("audit", ADMIN, *_PAGE, *_AUDIT),
    _view("audit/verify", ADMIN),
)  # fmt: skip


class Table:
    """`TABLE`, or another one, as a request meets it."""

    def __init__(self, rules: Iterable[Rule] = TABLE) -> None:
        self._exact: dict[str, dict[str, Rule]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Rule]]] = []
        by_path: dict[str, dict[str, Rule]] = {}
        for rule in rules:
            by_path.setdefault(rule.path, {})[rule.method] = rule
        for path, methods in by_path.items():
            if "{" in path:
                self._patterns.append((compile_path(path)[0], methods))
            else:
                self._exact[path] = methods

    def find(self, method: str, path: str) -> Rule:
        """Raises SumikaError `path_not_found` (404), `method_not_allowed` (405)."""
        if not path.isprintable():  # NUL, which PostgreSQL takes in no text
            raise nothing_here()
        methods = self._exact.get(path)
        if methods is None:
            methods = next((methods for pattern, methods in self._patterns if pattern.match(path)), None)
        if methods is None:
            raise nothing_here()
        rule = methods.get(method)
        if rule is None:
            raise not_this_way()
        return rule


def check_route(principal: Principal, rule: Rule) -> None:
    """Raises SumikaError `forbidden` (403), where role or scope leads elsewhere."""
    if principal.role not in rule.roles:
        least = "an administrator" if rule.roles == ADMIN else "an administrator or engineer"
        least_ja = "管理者" if rule.roles == ADMIN else "管理者またはエンジニア"
        raise SumikaError(
            "forbidden",
            f"This is for {least}, by a key or role. Ask your administrator.",
            f"この操作には{least_ja}の権限が必要です。管理者に依頼してください。",
            status=403,
        )
    if rule.endpoint is not None and not principal.may_reach(rule.endpoint):
        raise SumikaError(
            "forbidden",
            f"This key may not use '{rule.endpoint}'. Ask your administrator for one that may.",
            f"このキーでは「{rule.endpoint}」を利用できません。利用できるキーを管理者に依頼してください。",
            status=403,
        )


def check_fields(role: Role, rule: Rule, given: Iterable[str]) -> None:
    """Raises SumikaError `unknown_field` (400), `field_forbidden` (403); `param` is the field."""
    for name in given:
        roles = rule.fields.get(name)
        shown = quoted(name, 64)
        if roles is None:
            raise SumikaError("unknown_field", f"{shown}: unknown field.", f"{shown}: 未対応の項目です。", param=shown)
        if role not in roles:
            raise SumikaError(
                "field_forbidden",
                f"{shown}: only an administrator may set this. Leave it out, or ask your administrator.",
                f"{shown}: この項目を指定できるのは管理者だけです。省くか、管理者に依頼してください。",
                status=403,
                param=shown,
            )


def nothing_here() -> SumikaError:
    return SumikaError(
        "path_not_found",
        "There is nothing at this path; the API lies under /v1.",
        "このパスには何もありません。APIは /v1 の下にあります。",
        status=404,
    )


def not_this_way() -> SumikaError:
    return SumikaError(
        "method_not_allowed", "This path does not take this method.", "このパスではこのメソッドを使えません。", status=405
    )
