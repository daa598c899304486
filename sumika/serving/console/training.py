"""`/console/training`: jobs as they run, and starting, ending and comparing them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml
from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.errors import Language, SumikaError
from sumika.models.jobs import OVER
from sumika.models.runfiles import dotted
from sumika.serving.console.api import Api
from sumika.serving.console.asking import ROWS, Asker
from sumika.serving.console.pages import Pages, form, language, one

# As `yamlproblems.Place` spells a line.
_AT_LINE = re.compile(r"^\s*(?:line (?P<en>\d+)|(?P<ja>\d+) 行目): (?P<text>.*)$")


class AtLine(NamedTuple):
    """One problem of a job's YAML; `line` is None where it has no place."""

    line: int | None
    text: str


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter(prefix="/training")

    _add_starting(routes, pages, api)

    async def watched(who: Asker, job_id: int) -> dict[str, Any]:
        job, log = await api.get(who, "jobs", job_id), await api.get(who, "jobs", job_id, "log")
        return {"job": job, "log": log["text"], "over": job["state"] in OVER}

    @routes.get("")
    async def list_jobs(request: Request, who: Asker, after: str = "", limit: int = ROWS) -> Response:
        found = await api.get(who, "jobs", after=after, limit=limit)
        return pages.show(request, "training.html", jobs=found["data"], next=found["next"], over=OVER)

    @routes.get("/compare")
    async def compare(request: Request, who: Asker, a: int = 0, b: int = 0) -> Response:
        found = await api.every(who, "jobs")
        sides = [await api.get(who, "jobs", job) for job in (a, b) if job]
        rows = differing(*(yaml.safe_load(side["config"]) or {} for side in sides)) if len(sides) == 2 else []
        return pages.show(request, "compare_jobs.html", jobs=found, a=a, b=b, sides=sides, rows=rows)

    @routes.get("/{job_id}")
    async def show(request: Request, who: Asker, job_id: int) -> Response:
        return pages.show(request, "job.html", **await watched(who, job_id))

    @routes.get("/{job_id}/live")
    async def live(request: Request, who: Asker, job_id: int) -> Response:
        return pages.show(request, "job_live.html", **await watched(who, job_id))

    @routes.post("/{job_id}/{act}")
    async def act(request: Request, who: Asker, job_id: int, act: str) -> Response:
        await api.post(who, "jobs", job_id, act)
        return pages.goes_to(request, f"/console/training/{job_id}")

    return routes


def _add_starting(routes: APIRouter, pages: Pages, api: Api) -> None:
    @routes.get("/new")
    async def begin(request: Request, who: Asker, template: str = "", job: int = 0) -> Response:
        templates = (await api.get(who, "jobs", "templates"))["data"]
        chosen = next((one["config"] for one in templates if one["name"] == template), "")
        if job:
            chosen = (await api.get(who, "jobs", job))["config"]
        return pages.show(request, "new_job.html", templates=templates, config=chosen)

    @routes.post("/new")
    async def submit(request: Request, who: Asker) -> Response:
        """Checks the job, or checks and submits it; what is wrong comes back at its lines."""
        given = await form(request)
        config, priority = given.get("config", [""])[0].replace("\r\n", "\n"), one(given, "priority")
        asked: dict[str, Any] = {"config": config, "priority": int(priority) if re.fullmatch(r"-?\d{1,3}", priority) else 0}
        checks = bool(one(given, "check"))
        try:
            done = await api.post(who, "jobs", *(["check"] if checks else []), **asked)
        except SumikaError as error:
            if error.code != "bad_config":
                raise
            problems = at_lines(error, language(request.scope))
            return pages.show(request, "job_problems.html", error.status, problems=problems, config=config)
        if checks:
            return pages.show(request, "job_checked.html", checked=done)
        return pages.goes_to(request, f"/console/training/{done['id']}")


def at_lines(error: SumikaError, speak: Language) -> list[AtLine]:
    """The problems that a `bad_config` names, one a line below its first."""
    found = []
    for line in error.text(speak).split("\n")[1:] or [error.text(speak)]:
        told = _AT_LINE.match(line)
        found.append(AtLine(int(told["en"] or told["ja"]), told["text"]) if told else AtLine(None, line.strip()))
    return found


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys of two configurations that are not the same, by dotted name."""
    one, other = dict(dotted(a)), dict(dotted(b))
    return [(key, one.get(key), other.get(key)) for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
