"""Errors as OpenAI's and Anthropic's clients expect them, in the language the client asks for."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import Scope

from sumika.models.errors import Language, SumikaError
from sumika.serving.engine_errors import EngineError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {**_TYPES, 413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}
# Whose errors have Anthropic's envelope.
ANTHROPIC_PATHS = ("/v1/messages", "/v1/messages/count_tokens")
# Who failed: `gateway`, or `engine`, whose own words an error may be.
ORIGIN_HEADER = "x-sumika-origin"


def language(headers: Iterable[tuple[bytes, bytes]]) -> Language:
    """Japanese where `Accept-Language` puts it first, else English."""
    for name, value in headers:
        if name == b"accept-language":
            first = value.decode("latin-1").split(",")[0].strip().lower()
            return "ja" if first == "ja" or first.startswith(("ja-", "ja;")) else "en"
    return "en"


def error_body(error: SumikaError, speak: Language) -> dict[str, object]:
    """OpenAI's."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.text(speak), "type": kind, "param": error.param, "code": error.code}}


def anthropic_body(error: SumikaError, speak: Language) -> dict[str, object]:
    """Anthropic's, with our `code` and `param` beside, which its clients pass over."""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.text(speak), "param": error.param, "code": error.code}}


def error_response(error: SumikaError, scope: Scope) -> JSONResponse:
    """The answer; `scope["state"]` keeps its code for who counts refusals."""
    scope.setdefault("state", {})["code"] = error.code
    headers = {ORIGIN_HEADER: "engine" if isinstance(error, EngineError) else "gateway"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = anthropic_body if scope["path"] in ANTHROPIC_PATHS else error_body
    return JSONResponse(body(error, language(scope["headers"])), status_code=error.status, headers=headers)
