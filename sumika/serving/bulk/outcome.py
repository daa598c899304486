"""A line of an output or error file, in OpenAI's shape."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pydantic_core

from sumika.models.errors import Language, SumikaError
from sumika.serving.bulk.asking import Reply
from sumika.serving.replies import error_body
from sumika.serving.usage_events import BodyCount, Tokens

_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def answered(custom_id: str, reply: Reply) -> tuple[bool, Tokens, bytes]:
    """Of an answer or a refusal: whether it went well, its tokens, and its line. The body stands in it as the engine wrote it."""
    body = reply.body.translate(_BREAKS)  # a line end inside JSON is white space, never part of a text
    count = BodyCount()
    count.feed(body)
    tokens = (count.tokens or Tokens()) if reply.status == 200 else Tokens()
    head = json.dumps({"id": _new_id(), "custom_id": custom_id}, ensure_ascii=False).encode()[:-1]
    response = b'{"status_code": %d, "request_id": "%s", "body": %s}' % (reply.status, reply.request_id.encode(), body)
    return reply.status == 200, tokens, head + b', "response": ' + response + b', "error": null}'


def refused(custom_id: str, error: SumikaError, speak: Language) -> bytes:
    """The line of a request that was refused before it was made."""
    response = {"status_code": error.status, "request_id": None, "body": error_body(error, speak)}
    return _line(custom_id, response=response)


def never_asked(custom_id: str, code: str, error: SumikaError, speak: Language) -> bytes:
    """The line of a request that was not made before its batch ended."""
    return _line(custom_id, error={"code": code, "message": error.text(speak)})


def is_json(body: bytes) -> bool:
    try:
        pydantic_core.from_json(body)
    except ValueError:
        return False
    return True


def _line(custom_id: str, *, response: dict[str, Any] | None = None, error: dict[str, Any] | None = None) -> bytes:
    told = {"id": _new_id(), "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(told, ensure_ascii=False).encode()


def _new_id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"
