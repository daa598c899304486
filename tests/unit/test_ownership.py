"""Every route that names something, by every role, of one's own team and of another's: generated from the table."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from sumika.models import aliases, batches, clock, engines, files, jobs, keys, moves, orders, registry, schema, teams
from sumika.models.actor import SYSTEM
from sumika.models.audit import listing
from sumika.models.audit.listing import Filter
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.imports import Import, Imports
from sumika.models.names import VersionRef
from sumika.models.orders import Asked
from sumika.models.principals import EVERYTHING, ROLES, Role, Sensitivity
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.models.usage import table
from sumika.models.usage.rows import UsageRow
from sumika.serving.access import ADMIN, CONSOLE, PLACES, STAFF, TABLE, Rule, at_console
from sumika.serving.app import create_app

OURS, THEIRS = "soumu", "eigyo"
# Of the console's forms, by the page they stand on.
ACTS = {"deployments": "rollback", "training": "cancel", "keys": "revoke"}
# What is named by nobody.
NOTHING = {
    "alias": "nothing", "batch_id": "batch_0", "file_id": "file-0", "job_id": "999999", "key_id": "k0", "move_id": "999999", "ref": "nothing@1",
}  # fmt: skip
# Whom the table lets call every alias; a key's scope says which.
CALLING = ("/v1/models", "/v1/models/{alias}", f"{CONSOLE}/playground", "/openapi.json")


@dataclass
class World:
    """Two teams, and things of each; every thing's name begins with its team's."""

    home: Home
    store: Store
    app: FastAPI
    base: Version
    secrets: dict[tuple[Role, str], str] = field(default_factory=dict)
    count: int = 0

    def key(self, role: Role, team: str, **more: Any) -> str:
        if more or (role, team) not in self.secrets:
            with self.store.write() as connection:
                secret, _ = keys.create(connection, f"{team}-{role}", role=role, team=None if role == "admin" else team, **more)
            self.app.state.gateway.directory.refresh()
            if more:
                return secret
            self.secrets[role, team] = secret
        return self.secrets[role, team]

    def things(self, team: str, sensitivity: Sensitivity = "internal") -> dict[str, str]:
        """Of each kind one that is the team's, by the place in a path that names it."""
        self.count += 1
        name = f"{team}-{self.count}"
        with self.store.write(by=SYSTEM) as connection:
            connection.execute(update(schema.batches).values(state="completed"))  # of one team's a hundred may be open
            _, key = keys.create(connection, f"{name}-key", team=team)
            who = replace(key.principal, role="engineer", scopes=EVERYTHING)
            file = files.made(who.owner, who.id, "batch", f"{name}.jsonl", 2, "0" * 64, None, sensitivity)
            files.add(connection, file)
            (self.home.files / f"{file.id}.jsonl").write_bytes(b"{}")
            batch = batches.create(
                connection, who, "/v1/chat/completions", file, sensitivity="public", language="en", metadata={"n": name}, output_seconds=None
            )  # fmt: skip
            # Once more, for what may be deleted: the batch reads the other.
            spare = files.made(who.owner, who.id, "batch", f"{name}-spare.jsonl", 2, "0" * 64, None, sensitivity)
            files.add(connection, spare)
            (self.home.files / f"{spare.id}.jsonl").write_bytes(b"{}")
            versions = [
                registry.add(
                    connection, name, kind="adapter", folder=f"{name}/{n}", digest=f"{name}-{n}", base=self.base, owner=who.owner,
                    meta={"training": {"config": f"{name}-config", "steps": 3}},
                )
                for n in (1, 2)
            ]  # fmt: skip
            for version in versions:
                move = aliases.ask_deploy(connection, name, version, actor=key.id, reason="", owner=who.owner)
                aliases.finish(connection, move, None)
            run = self.home.runs / f"{name}-run"
            run.mkdir()
            (run / "config.yaml").write_text(f"job: {{name: {name}-config}}\n")
            job = jobs.submit(
                connection, name, run.name, actor=key.id, memory=1, owner=who.owner, alias=name, sensitivity=sensitivity
            )  # fmt: skip
        asked = Asked(name, "base@1", "file-0", None, "supervised", 1)
        order = orders.submit(self.store, self.home, asked, who, sensitivity=sensitivity, metadata=None, by=SYSTEM)
        return {
            "alias": name, "batch_id": batch.id, "file_id": spare.id, "job_id": str(job.id), "key_id": key.id, "move_id": str(move.id),
            "ref": str(versions[-1].ref), "tuning": order.id,
        }  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = Home(tmp_path_factory.mktemp("world") / "home")
    home.create()
    with closing(Store(f"sqlite:///{home.database}")) as store:
        store.migrate()
        with store.write() as connection:
            for team in (OURS, THEIRS):
                teams.create(connection, team)
            base = registry.add(connection, "base", kind="base", folder="base/1", digest="b")
        yield World(home, store, create_app(Settings(home=home.root), store), base)


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as made:
        yield made


def path_of(rule: Rule, things: dict[str, str]) -> str:
    """`rule`'s path, where each place names the thing of its kind."""

    def named(place: re.Match[str]) -> str:
        if "tuning" in rule.owned and place[1] == "job_id":
            return things.get("tuning", "ftjob-0")
        if place[1] == "act":
            return ACTS[rule.path.split("/")[2]]
        return things[place[1]]

    return re.sub(r"\{(\w+)\}", named, rule.path)


async def ask(client: httpx.AsyncClient, rule: Rule, things: dict[str, str], secret: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"}
    if rule.form:
        headers["content-type"] = "application/x-www-form-urlencoded"
    query = "?version=base@1" if rule.path.endswith("/plan") else ""
    body = {"version": "base@1"} | ({"share": 10} if rule.path.endswith("/canary") else {})
    body = body if rule.path.endswith(("/deploy", "/canary")) else None
    return await client.request(rule.method, path_of(rule, things) + query, headers=headers, json=body)


def names_an_owned_thing(rule: Rule) -> bool:
    places = set(re.findall(r"\{(\w+)\}", rule.path)) - {"act"}
    return bool(places) and places <= set(PLACES.values()) and rule.roles != ADMIN and rule.path not in CALLING


NAMING = [rule for rule in TABLE if names_an_owned_thing(rule)]


@pytest.mark.parametrize("rule", NAMING, ids=lambda rule: f"{rule.method} {rule.path}")
@pytest.mark.parametrize("role", ROLES)
async def test_thing_is_there_for_its_team_and_administrators_alone(
    world: World, client: httpx.AsyncClient, rule: Rule, role: Role
) -> None:
    for team in (OURS, THEIRS):
        things = world.things(team)
        answer = await ask(client, rule, things, world.key(role, OURS))
        if role not in rule.roles:
            assert answer.status_code == 403
        elif team == OURS or role == "admin":
            assert answer.status_code not in (401, 403, 404, 500), (answer.status_code, answer.text[-2000:])
        else:
            assert answer.status_code == 404
            if not (rule.path.endswith(("/deploy", "/plan")) or at_console(rule.path)):  # a new name may be deployed
                nothing = await ask(client, rule, NOTHING, world.key(role, OURS))
                assert nothing.status_code == 404
                for text in (answer.text, nothing.text):
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, text
                assert plain(answer, rule, things) == plain(nothing, rule, NOTHING), "answered as one that does not exist"
            seen = await ask(client, rule, things, world.key(role, THEIRS))
            assert seen.status_code != 404, "nothing was changed by who may not see it"


def plain(answer: httpx.Response, rule: Rule, things: dict[str, str]) -> str:
    text = answer.text
    for name in sorted({*things.values(), path_of(rule, things).rpartition("/")[2], "ftjob-0"}, key=len, reverse=True):
        text = text.replace(f"'{name}'", "ID")
    return text


@pytest.mark.parametrize(
    "rule",
    [rule for rule in TABLE if rule.method == "GET" and "{" not in rule.path and "engineer" in rule.roles and rule.path not in CALLING],
    ids=lambda rule: rule.path,
)  # fmt: skip
async def test_lists_leave_out_what_is_another_teams(world: World, client: httpx.AsyncClient, rule: Rule) -> None:
    theirs, ours = world.things(THEIRS), world.things(OURS)
    answer = await client.get(rule.path, headers={"authorization": f"Bearer {world.key('engineer', OURS)}"})
    assert answer.status_code in (200, 303, 400), answer.text
    for name in (theirs["alias"], theirs["ref"], theirs["batch_id"], theirs["file_id"], theirs["tuning"], theirs["key_id"]):
        assert name not in answer.text
    everything = await client.get(rule.path, headers={"authorization": f"Bearer {world.key('admin', OURS)}"})
    if any(ours[kind] in answer.text for kind in ("alias", "batch_id", "file_id", "tuning")):
        assert theirs["alias"] in everything.text or theirs["file_id"] in everything.text or theirs["tuning"] in everything.text


def test_a_route_that_does_not_say_whose_its_things_are_is_no_rule() -> None:
    with pytest.raises(ValueError, match="widget_id"):
        Rule("GET", "/admin/v1/widgets/{widget_id}", "admin", STAFF)
    with pytest.raises(ValueError, match="job_id"):
        Rule("GET", "/admin/v1/jobs/{job_id}/weights", "admin", STAFF)
    with pytest.raises(ValueError, match="widget_id"):
        Rule("GET", f"{CONSOLE}/widgets/{{widget_id}}", "admin", STAFF)
    with pytest.raises(ValueError, match="job_id"):
        Rule("GET", "/health/jobs/{job_id}")
    assert Rule("GET", "/admin/v1/widgets/{widget_id}", "admin", ADMIN)


# Fields of queries and bodies by what they hold. A new one stands in one of the two; what names a thing also in a test of its own.
NAME_NOTHING = {
    "after", "before", "limit", "order", "by", "since", "until", "check", "completion_window", "endpoint", "endpoints", "expires_after",
    "expires_at", "file", "hyperparameters", "integrations", "metadata", "method", "name", "output_expires_after", "overlap_s", "override",
    "priority", "purpose", "reason", "role", "seed", "sensitivity", "share", "how", "template",
}  # fmt: skip
NAME_THINGS = {
    "a", "b", "job", "version", "alias", "aliases", "team", "config", "model", "suffix", "input_file_id", "training_file", "validation_file",
}  # fmt: skip


def test_every_field_is_known_to_name_a_thing_or_nothing() -> None:
    """A path says by its row what it names; a field can't, so whoever adds one says it here and writes the test."""
    inference = {"chat", "completions", "embeddings", "rerank", "responses", "messages", "tokenize", None}
    rules = [rule for rule in TABLE if rule.roles - ADMIN and rule.endpoint not in inference]
    given = {name for rule in rules for name, roles in rule.fields.items() if roles - ADMIN}
    assert given == NAME_NOTHING | NAME_THINGS


FIELDS = [
    ("GET", f"{CONSOLE}/models/compare?a={{ref}}", None), ("GET", f"{CONSOLE}/models/compare?a=base@1&b={{ref}}", None),
    ("GET", f"{CONSOLE}/training/compare?a={{job_id}}", None), ("GET", f"{CONSOLE}/training/compare?b={{job_id}}", None),
    ("GET", f"{CONSOLE}/training/new?job={{job_id}}", None), ("GET", f"{CONSOLE}/swap/plan?alias=mine&version={{ref}}", None),
    ("GET", f"{CONSOLE}/swap/plan?alias={{alias}}&version=base@1", None),
    ("GET", "/admin/v1/aliases/mine/plan?version={ref}", None), ("POST", "/admin/v1/aliases/mine/deploy", {"version": "{ref}"}),
    ("POST", "/v1/batches", {"input_file_id": "{file_id}", "endpoint": "/v1/chat/completions", "completion_window": "24h"}),
    ("POST", "/v1/fine_tuning/jobs", {"model": "base", "training_file": "{file_id}"}),
    ("POST", "/v1/fine_tuning/jobs", {"model": "{ref}", "training_file": "file-0"}),
    ("GET", "/v1/files?after={file_id}", None), ("GET", "/v1/batches?after={batch_id}", None),
    ("GET", "/v1/fine_tuning/jobs?after={tuning}", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), FIELDS, ids=lambda value: str(value))
async def test_field_names_no_thing_of_another_team(
    world: World, client: httpx.AsyncClient, method: str, path: str, body: dict[str, str] | None
) -> None:
    """Answered in the same words as what does not exist."""
    theirs, headers = world.things(THEIRS), {"authorization": f"Bearer {world.key('engineer', OURS)}"}

    async def told(things: dict[str, str]) -> tuple[int, str]:
        filled = None if body is None else {name: value.format(**things) for name, value in body.items()}
        answer = await client.request(method, path.format(**things), headers=headers, json=filled)
        text = answer.text
        for name in sorted(things.values(), key=len, reverse=True):
            text = text.replace(name, "ID")
        return answer.status_code, text

    status, text = await told(theirs)
    assert status == 404
    if not at_console(path.partition("?")[0]):
        assert (status, text) == await told(NOTHING | {"tuning": "ftjob-0"})


async def test_refused_act_on_another_teams_thing_is_in_the_log(world: World, client: httpx.AsyncClient) -> None:
    theirs = world.things(THEIRS)
    headers = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    assert (await client.post(f"/admin/v1/jobs/{theirs['job_id']}/cancel", headers=headers)).status_code == 404
    with world.store.read() as connection:
        rows = [row for row in listing.find(connection, Filter(), 50) if row.object == theirs["job_id"]]
    assert [(row.action, row.outcome, row.reason) for row in rows if row.outcome == "refused"] == [
        ("job.cancel", "refused", "not_found")
    ]


async def test_alias_that_is_nobodys_is_seen_by_all_and_moved_by_administrators(world: World, client: httpx.AsyncClient) -> None:
    with world.store.write() as connection:
        aliases.finish(connection, aliases.ask_deploy(connection, "shared", world.base, actor="cli", reason=""), None)
    engineer = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    admin = {"authorization": f"Bearer {world.key('admin', OURS)}"}
    deploy = {"version": "base@1"}
    assert (await client.get("/admin/v1/aliases/shared", headers=engineer)).json()["team"] is None
    refused = await client.post("/admin/v1/aliases/shared/deploy", headers=engineer, json=deploy)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_owner")
    assert (await client.post("/admin/v1/aliases/shared/owner", headers=engineer, json={"team": OURS})).status_code == 403
    given = await client.post("/admin/v1/aliases/shared/owner", headers=admin, json={"team": OURS})
    assert (given.status_code, given.json()["team"]) == (200, OURS)
    assert (await client.post("/admin/v1/aliases/shared/deploy", headers=engineer, json=deploy)).status_code == 202
    other = {"authorization": f"Bearer {world.key('engineer', THEIRS)}"}
    assert (await client.post("/admin/v1/aliases/shared/deploy", headers=other, json=deploy)).status_code == 404


async def test_new_alias_is_whose_engineer_deploys_it_first(world: World, client: httpx.AsyncClient) -> None:
    ours, theirs = ({"authorization": f"Bearer {world.key('engineer', team)}"} for team in (OURS, THEIRS))
    asked = await client.post("/admin/v1/aliases/fresh/deploy", headers=ours, json={"version": "base@1"})
    assert asked.status_code == 202
    for path in ("/admin/v1/aliases/fresh/abort", "/admin/v1/aliases/fresh/deploy"):  # not there yet, and ours already
        body = {"version": "base@1"} if path.endswith("deploy") else {}
        assert (await client.post(path, headers=theirs, json=body)).status_code == 404
    assert (await client.get(f"/admin/v1/moves/{asked.json()['id']}", headers=theirs)).status_code == 404
    with world.store.write() as connection:
        aliases.finish(connection, moves.get(connection, asked.json()["id"]), None)
    assert (await client.get("/admin/v1/aliases/fresh", headers=ours)).json()["team"] == OURS
    assert (await client.get("/admin/v1/aliases/fresh", headers=theirs)).status_code == 404


async def test_name_of_another_teams_versions_is_not_free(world: World, client: httpx.AsyncClient) -> None:
    with world.store.write() as connection:
        owner = teams.get(connection, THEIRS).id
        registry.add(connection, "coming", kind="adapter", folder="coming/1", digest="c", base=world.base, owner=owner)
    for team, status in ((OURS, 404), (THEIRS, 202)):
        headers = {"authorization": f"Bearer {world.key('engineer', team)}"}
        answer = await client.post("/admin/v1/aliases/coming/deploy", headers=headers, json={"version": "base@1"})
        assert answer.status_code == status


async def test_version_of_another_team_is_not_deployed(world: World, client: httpx.AsyncClient) -> None:
    theirs = world.things(THEIRS)
    headers = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    answer = await client.post("/admin/v1/aliases/stolen/deploy", headers=headers, json={"version": theirs["ref"]})
    assert answer.status_code == 404 and f"'{theirs['ref']}'" in answer.text
    assert (await client.get(f"/admin/v1/aliases/stolen/plan?version={theirs['ref']}", headers=headers)).status_code == 404


async def test_how_a_shared_version_was_trained_is_for_administrators(world: World, client: httpx.AsyncClient) -> None:
    ours = world.things(OURS)
    engineer, admin = ({"authorization": f"Bearer {world.key(role, OURS)}"} for role in ("engineer", "admin"))
    path = f"/admin/v1/versions/{ours['ref']}"
    assert "config" in (await client.get(path, headers=engineer)).json()["meta"]["training"]
    assert (await client.post(f"{path}/owner", headers=admin, json={"team": None})).json()["owner"] is None
    assert (await client.get(path, headers=engineer)).json()["meta"]["training"] == {"steps": 3}
    assert "config" in (await client.get(path, headers=admin)).json()["meta"]["training"]


@pytest.mark.parametrize("role", ["engineer", "admin"])
async def test_key_reads_and_acts_on_nothing_more_confidential_than_it_may_send(
    world: World, client: httpx.AsyncClient, role: Role
) -> None:
    things = world.things(OURS, sensitivity="confidential")
    small = {"authorization": f"Bearer {world.key(role, OURS, sensitivity='public')}"}
    paths = [
        ("GET", f"/v1/files/{things['file_id']}"), ("GET", f"/v1/files/{things['file_id']}/content"), ("DELETE", f"/v1/files/{things['file_id']}"),
        ("GET", f"/v1/batches/{things['batch_id']}"), ("POST", f"/v1/batches/{things['batch_id']}/cancel"),
        ("GET", f"/v1/fine_tuning/jobs/{things['tuning']}"), ("GET", f"/admin/v1/jobs/{things['job_id']}/log"),
        ("POST", f"/admin/v1/jobs/{things['job_id']}/cancel"),
    ]  # fmt: skip
    for method, path in paths:
        answer = await client.request(method, path, headers=small)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "sensitivity_refused"), path
    for path in ("/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/admin/v1/jobs"):
        text = (await client.get(path, headers=small)).text
        assert not any(name in text for name in things.values() if len(name) > 8), path
    over = {"input_file_id": things["file_id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = await client.post("/v1/batches", headers=small | {"x-sumika-sensitivity": "public"}, json=over)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "sensitivity_refused")
    able = {"authorization": f"Bearer {world.key(role, OURS, sensitivity='confidential')}"}
    made = await client.post("/v1/batches", headers=able | {"x-sumika-sensitivity": "public"}, json=over)
    with world.store.read() as connection:
        assert batches.find(connection, made.json()["id"]).sensitivity == "confidential", "as confidential as what it reads"


async def test_alias_beyond_a_keys_scope_hides_its_jobs_too(world: World, client: httpx.AsyncClient) -> None:
    things = world.things(OURS)
    scoped = {"authorization": f"Bearer {world.key('engineer', OURS, aliases=['faq'])}"}
    for path in (
        f"/admin/v1/jobs/{things['job_id']}",
        f"/v1/fine_tuning/jobs/{things['tuning']}",
        f"/admin/v1/aliases/{things['alias']}",
    ):
        assert (await client.get(path, headers=scoped)).status_code == 404, path
    for path in ("/admin/v1/jobs", "/v1/fine_tuning/jobs"):
        assert (await client.get(path, headers=scoped)).json()["data"] == []


@pytest.mark.parametrize("path", ["1.0", "+1", " 1", "1_0", "０", "0x1"])
async def test_number_spelled_otherwise_names_nothing(world: World, client: httpx.AsyncClient, path: str) -> None:
    world.things(THEIRS)
    answer = await client.get(f"/admin/v1/jobs/{path}", headers={"authorization": f"Bearer {world.key('engineer', OURS)}"})
    assert answer.status_code == 404


async def test_team_made_again_by_the_same_name_inherits_nothing(client: httpx.AsyncClient, world: World) -> None:
    with world.store.write() as connection:
        teams.create(connection, "once")
    old = world.things("once")
    with world.store.write() as connection:
        row = UsageRow("q1", clock.now(), old["key_id"], "once", "faq", "faq@1", "chat", 200, "", False, 3, 0, 4, 0, 9, 9)
        table.add(connection, [row])
        assert table.spent(connection, table.month_of(clock.now()))["team", "once"] == 7
        owner = jobs.get(connection, int(old["job_id"])).owner
        assert keys.revoke(connection, old["key_id"]).team_id == owner
        teams.remove(connection, "once")
        assert teams.create(connection, "once").id != owner
        assert ("team", "once") not in table.spent(connection, table.month_of(clock.now()))
    for role in ("app", "engineer"):
        headers = {"authorization": f"Bearer {world.key(role, 'once')}"}
        for path in (f"/v1/files/{old['file_id']}", f"/v1/batches/{old['batch_id']}"):
            assert (await client.get(path, headers=headers)).status_code == 404
        assert (await client.get("/v1/files", headers=headers)).json()["data"] == []
    for path in (f"jobs/{old['job_id']}", f"aliases/{old['alias']}", f"versions/{old['ref']}", f"keys/{old['key_id']}"):
        assert (await client.get(f"/admin/v1/{path}", headers=headers)).status_code == 404, path
    assert (await client.get("/admin/v1/usage", headers=headers)).json()["data"] == []
    admin = {"authorization": f"Bearer {world.key('admin', OURS)}"}
    assert (await client.get(f"/v1/files/{old['file_id']}/content", headers=admin)).content == b"{}", (
        "orphans are administrators'"
    )


async def test_engineer_sets_no_priority_above_nought(world: World, client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    answer = await client.post("/admin/v1/jobs", headers=headers, json={"config": "job: {}", "priority": 1})
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
        403,
        "field_forbidden",
        "priority",
    )


async def test_tuning_for_another_teams_name_is_refused(world: World, client: httpx.AsyncClient) -> None:
    theirs = world.things(THEIRS)
    with world.store.write() as connection:
        who = keys.create(connection, "up", team=OURS, role="engineer")[1].principal
        file = files.made(who.owner, who.id, "fine-tune", "x", 2, "0" * 64, None, "internal")
        files.add(connection, file)
    headers = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    wish = {"model": "base", "training_file": file.id, "suffix": theirs["alias"]}
    answer = await client.post("/v1/fine_tuning/jobs", headers=headers, json=wish)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (403, "forbidden", "suffix")


async def test_log_of_an_engine_is_for_administrators(world: World, client: httpx.AsyncClient) -> None:
    """Engines serve all teams, and vLLM logs whole answers when it can't parse them."""
    why = "The engine for base@1 failed: it ended. Last lines of /var/sumika/engine-1.log:\nsecret words of a team"
    text, theirs = f"{why}\nTried again in 3 s (restart 1).", world.things(THEIRS)["ref"]
    with world.store.write() as connection:
        row = engines.add(connection, "e1", world.base.id, "sock")
        engines.change(connection, row.id, state="failed", error=text, adapters=[theirs])
        failed = SumikaError(
            "engine_failed", text, f"base@1 のエンジンに問題があります: 終了しました。ログ /var/x.log の末尾:\n{why}"
        )
        move = aliases.ask_deploy(connection, "broken", world.base, actor="x", reason="", owner=None)
        moves.refuse(connection, move, failed)
    engineer, admin = ({"authorization": f"Bearer {world.key(role, OURS)}"} for role in ("engineer", "admin"))
    paths = ("/admin/v1/status", "/admin/v1/moves", f"/admin/v1/moves/{move.id}", "/admin/v1/versions/base@1", f"{CONSOLE}/overview/live",
             f"{CONSOLE}/deployments/broken/moves/{move.id}", "/admin/v1/aliases/broken/plan?version=base@1")  # fmt: skip
    for path in paths:
        answer = await client.get(path, headers=engineer)
        assert answer.status_code == 200, answer.text
        for word in ("secret words", "/var/", theirs):
            assert word not in answer.text, (path, word)
    assert (await client.get("/admin/v1/status", headers=engineer)).json()["engines"][0][
        "error"
    ] == "The engine for base@1 failed: it ended."
    told = (await client.get("/admin/v1/status", headers=admin)).json()["engines"][0]
    assert "secret words" in told["error"] and told["adapters"] == [theirs]


CONFIG = """
job: {name: mine}
base: {version: base@1}
data: {train: DATA}
evaluate: {held_out: DATA}
serve: {alias: ALIAS}
"""


@pytest.mark.parametrize("path", ["/admin/v1/jobs", "/admin/v1/jobs/check"])
async def test_job_for_an_alias_of_another_team_or_beyond_the_key_is_refused(
    world: World, client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("SUMIKA_HOME", str(world.home.root))
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    config = CONFIG.replace("DATA", str(tmp_path / "data.jsonl"))
    theirs, ours = world.things(THEIRS), world.things(OURS)
    whole = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    scoped = {"authorization": f"Bearer {world.key('engineer', OURS, aliases=['faq'])}"}
    for alias, headers, refused in ((theirs["alias"], whole, True), ("new", scoped, True), (ours["alias"], whole, False)):
        answer = await client.post(path, headers=headers, json={"config": config.replace("ALIAS", alias)})
        told = answer.json()["error"]
        if refused:
            assert (answer.status_code, told["code"], told["param"]) == (403, "forbidden", "serve.alias"), answer.text
        else:
            assert told["code"] != "forbidden", "the base has no files here, which is another refusal"
    small = {"authorization": f"Bearer {world.key('engineer', OURS, sensitivity='public')}"}
    if path.endswith("jobs"):
        answer = await client.post(path, headers=small, json={"config": config.replace("ALIAS", ours["alias"])})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "sensitivity_refused")


async def test_moves_of_an_alias_that_was_removed_are_whose_it_was(world: World, client: httpx.AsyncClient) -> None:
    """Also once its name is another team's: versions, reasons and who asked."""
    theirs = world.things(THEIRS)
    with world.store.write(by=SYSTEM) as connection:
        owner, version = teams.get(connection, THEIRS).id, registry.get(connection, VersionRef.parse(theirs["ref"]))
        for version_of in (version, world.base):
            move = aliases.ask_deploy(connection, "passed-on", version_of, actor="k-theirs", reason="geheim", owner=owner)
            aliases.finish(connection, move, None)
        aliases.remove(connection, "passed-on", actor="k-theirs", reason="")
        (last, first) = moves.history(connection, "passed-on")
    ours, other, admin = (
        {"authorization": f"Bearer {world.key(role, team)}"}
        for role, team in (("engineer", OURS), ("engineer", THEIRS), ("admin", OURS))
    )

    async def reached(headers: dict[str, str]) -> set[int]:
        listed = {move["id"] for move in (await client.get("/admin/v1/moves?alias=passed-on", headers=headers)).json()["data"]}
        shown = {
            move.id
            for move in (first, last)
            if (await client.get(f"/admin/v1/moves/{move.id}", headers=headers)).status_code == 200
        }
        assert listed & {first.id, last.id} == shown
        return shown

    async def seen_whole(headers: dict[str, str]) -> set[int]:
        found = await client.get("/admin/v1/versions/base@1", headers=headers)
        return {move["id"] for move in found.json()["moves"]} & {first.id, last.id}

    assert await reached(ours) == set() == await seen_whole(ours)
    assert await reached(other) == await reached(admin) == {first.id, last.id}
    with world.store.write() as connection:
        made = aliases.ask_deploy(
            connection, "passed-on", world.base, actor="test", reason="", owner=teams.get(connection, OURS).id
        )
        aliases.finish(connection, made, None)
    assert await reached(ours) == set() == await seen_whole(ours)
    told = (await client.get("/admin/v1/aliases/passed-on", headers=ours)).json()
    assert [move["id"] for move in told["moves"]] == [made.id]
    assert await reached(other) == await reached(admin) == {first.id, last.id}
    assert (await client.get(f"/admin/v1/moves/{made.id}", headers=other)).status_code == 404


@pytest.mark.parametrize("named", ["{ref}", "{name}", "private@1", "private"])
async def test_version_of_another_team_is_no_base_to_train_on(
    world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("SUMIKA_HOME", str(world.home.root))
    theirs, ours = world.things(THEIRS), world.things(OURS)
    with world.store.write() as connection:
        if registry.newest(connection, "private") is None:
            owner = teams.get(connection, THEIRS).id
            registry.add(connection, "private", kind="base", folder="private/1", digest="p", owner=owner)
        who = keys.get(connection, ours["key_id"]).principal
        file = files.made(who.owner, who.id, "fine-tune", "rows.jsonl", 2, "0" * 64, None, "internal")
        files.add(connection, file)
    (world.home.files / f"{file.id}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    headers = {"authorization": f"Bearer {world.key('engineer', OURS)}"}
    named = named.format(ref=theirs["ref"], name=theirs["alias"])
    nothing = "nothing@1" if "@" in named else "nothing"

    async def told(path: str, name: str) -> tuple[int, str]:
        config = CONFIG.replace("DATA", file.id).replace("ALIAS", ours["alias"]).replace("base@1", name)
        body = {"config": config} if "jobs" in path and "fine_tuning" not in path else {"model": name, "training_file": file.id}
        answer = await client.post(path, headers=headers, json=body)
        return answer.status_code, answer.text.replace(name, "NAME")

    for path in ("/admin/v1/jobs/check", "/v1/fine_tuning/jobs"):
        assert await told(path, named) == await told(path, nothing)


async def test_base_that_is_another_teams_is_named_nowhere(world: World, client: httpx.AsyncClient) -> None:
    """Neither by the engine that serves it nor by the import that brought it in."""
    with world.store.write() as connection:
        base = registry.add(
            connection, "own-base", kind="base", folder="own-base/1", digest="o", owner=teams.get(connection, THEIRS).id
        )
        engines.add(connection, "e-own", base.id, "sock")
    made = Import("20261128", "own-base.sumika", "own-base", "admin", clock.now(), "done", version="own-base@1")
    Imports(world.home).keep(made)
    for path in ("/admin/v1/status", f"{CONSOLE}/overview/live", "/admin/v1/imports", f"{CONSOLE}/models"):
        for role, team, there in (("engineer", OURS, False), ("engineer", THEIRS, True), ("admin", OURS, True)):
            answer = await client.get(path, headers={"authorization": f"Bearer {world.key(role, team)}"})
            assert answer.status_code == 200 and ("own-base" in answer.text) == there, (path, role, team)


async def test_activity_is_of_ones_own_team(world: World, client: httpx.AsyncClient) -> None:
    with world.store.write() as connection:
        rows = [
            UsageRow(f"{team}-{n}", clock.now(), "k", team, "faq", "faq@1", "chat", 200, "", False, 3, 0, 4, 0, 9, 9)
            for team, count in ((OURS, 1), (THEIRS, 5))
            for n in range(count)
        ]
        table.add(connection, rows)

    async def counted(secret: str) -> tuple[int, int]:
        told = (await client.get("/admin/v1/activity", headers={"authorization": f"Bearer {secret}"})).json()
        return told["now"]["requests"], sum(slot["requests"] for slot in told["data"])

    assert await counted(world.key("engineer", OURS)) == (1, 1)
    assert await counted(world.key("engineer", THEIRS)) == (5, 5)
    assert min(await counted(world.key("admin", OURS))) >= 6
