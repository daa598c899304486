"""Errors as OpenAI's clients expect them, in the language the client asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import Scope

from sumika.models.errors import Language, SumikaError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def language(headers: Iterable[tuple[bytes, bytes]]) -> Language:
    """Japanese where `Accept-Language` puts it first, else English."""
    for name, value in headers:
        if name == b"accept-language":
            first = value.decode("latin-1").split(",")[0].strip().lower()
            return "ja" if first == "ja" or first.startswith(("ja-", "ja;")) else "en"
    return "en"


def error_body(error: SumikaError, speak: Language) -> dict[str, object]:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.text(speak), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: SumikaError, scope: Scope) -> JSONResponse:
    """The answer; `scope["state"]` keeps its code for who counts refusals."""
    scope.setdefault("state", {})["code"] = error.code
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error, language(scope["headers"])), status_code=error.status, headers=headers)


def error_event(error: SumikaError, speak: Language) -> bytes:
    """One server-sent event, for a stream that has begun and can't go on."""
    return b"data: " + json.dumps(error_body(error, speak), ensure_ascii=False).encode() + b"\n\n"
