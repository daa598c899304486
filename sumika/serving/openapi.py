"""The OpenAPI document: the admin API and the lists as FastAPI knows them, the inference endpoints from their own models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from sumika.serving import answers
from sumika.serving.access import TABLE, Rule, at_console
from sumika.serving.bulk import upload as uploads
from sumika.serving.examples import EXAMPLES, Example
from sumika.serving.operations import OPERATIONS, Operation
from sumika.serving.replies import ANTHROPIC_PATHS

_REF = "#/components/schemas/{model}"
_DESCRIPTION = """\
社内の言語モデルを使うためのAPIです。OpenAIとAnthropicのクライアントがそのまま使えます。
The company's own language models, for OpenAI's and Anthropic's clients as they are.

Every answer carries `x-request-id`; of a model also `x-sumika-version`. Errors carry `x-sumika-origin`: `gateway` or `engine`, whoever failed,
and are in Japanese where `Accept-Language` puts it first. A field that is not in this document is refused.
"""
_SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "`sk-sumika-…`, or an access token of the company's identity provider",
    },
    "bare_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "how Anthropic's clients send a key"},
    "session": {"type": "apiKey", "in": "cookie", "name": "__Host-sumika", "description": "the console's"},
}
_STATUSES = {"400": "refused, and why", "401": "no valid key", "403": "not for this key", "404": "no such model", "408": "body too late",
             "409": "not in this state", "413": "body too large", "415": "compressed, or no JSON", "429": "a limit is reached", "500": "a fault of the gateway", "502": "the engine failed",
             "503": "not ready, or too many wait; see Retry-After", "504": "the engine was too slow", "507": "disk full"}  # fmt: skip

_THIS = {"description": "this document, which FastAPI does not know of"}


def document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of everything that `access.TABLE` lets programs reach: the console's pages are for people."""
    made = get_openapi(title="Sumika", version=app.version, description=_DESCRIPTION, routes=app.routes)
    schemas: dict[str, Any] = made.setdefault("components", {}).setdefault("schemas", {})
    for kind in (answers.ErrorAnswer, answers.AnthropicErrorAnswer):
        _add(schemas, kind)
    for operation in OPERATIONS:
        made["paths"][operation.path] = {"post": _described(operation, EXAMPLES[operation.path], schemas)}
    made["paths"].setdefault(uploads.PATH, {})["post"] = dict(uploads.DOCUMENT)
    made["components"]["securitySchemes"] = _SECURITY
    for rule in (rule for rule in TABLE if not at_console(rule.path)):
        described = made["paths"].setdefault(rule.path, {}).setdefault(rule.method.lower(), {"responses": {"200": _THIS}})
        described["security"] = _security(rule)
        described["responses"].pop("422", None)  # FastAPI's own; ours is 400, in the envelope
        described["responses"] |= _errors(rule.path)
    return made


def _described(operation: Operation, example: Example, schemas: dict[str, Any]) -> dict[str, Any]:
    streams = "stream" in operation.kind.model_fields
    content = {"application/json": {"schema": _add(schemas, example.answer)}}
    return {
        "tags": ["inference"], "operationId": operation.path.removeprefix("/v1/").replace("/", "_"),
        "summary": example.title, "description": example.text,
        "requestBody": {"required": True, "content": {"application/json": {
            "schema": _add(schemas, operation.kind), "examples": {name: {"value": body} for name, body in example.bodies.items()},
        }}},
        "responses": {"200": {"description": "the answer", "content": content | ({"text/event-stream": {}} if streams else {})}},
    }  # fmt: skip


def _add(schemas: dict[str, Any], kind: type[BaseModel]) -> dict[str, str]:
    """Keep a model's schema, and those inside it, under their names; a reference to it."""
    schema = kind.model_json_schema(ref_template=_REF, mode="validation")
    schemas |= schema.pop("$defs", {})
    schemas[kind.__name__] = schema
    return {"$ref": _REF.format(model=kind.__name__)}


def _security(rule: Rule) -> list[dict[str, list[str]]]:
    if rule.endpoint is None:
        return []
    also = ["bare_key"] if rule.path in ANTHROPIC_PATHS else ["session"] if rule.by_session else []
    return [{name: []} for name in ("key", *also)]


def _errors(path: str) -> dict[str, Any]:
    kind = answers.AnthropicErrorAnswer if path in ANTHROPIC_PATHS else answers.ErrorAnswer
    schema = {"$ref": _REF.format(model=kind.__name__)}
    return {
        status: {"description": text, "content": {"application/json": {"schema": schema}}} for status, text in _STATUSES.items()
    }
