"""One request of a batch, made as a client would make it: through the endpoint itself, with its limits, queue, usage and audit."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message

from sumika.models.principals import Principal
from sumika.serving.inference import Inference


@dataclass(slots=True)
class Reply:
    """What came back. `whole`: to its end; one that is not was cut off by an engine that died. `status` 0: nothing came."""

    request_id: str
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    @property
    def code(self) -> str:
        """Of an error; empty for an answer."""
        if self.status == 200:
            return ""
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""

    @property
    def retry_after_s(self) -> float:
        given = self.headers.get(b"retry-after", b"")
        return float(given) if given.isdigit() else 0.0


async def ask(
    endpoint: Inference, path: str, who: Principal, headers: Mapping[bytes, bytes], body: bytes, gone: asyncio.Event
) -> Reply:
    """Ask until an answer is there, or `gone` is set: then the engine ends its work as for a client that left."""
    reply = Reply(f"req-{secrets.token_hex(12)}")
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": path, "headers": list(headers.items()),
        "state": {"request_id": reply.request_id, "principal": who},
    }  # fmt: skip
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await gone.wait()
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    pieces: list[bytes] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status, reply.headers = message["status"], dict(message["headers"])
        else:
            pieces.append(message.get("body", b""))
            reply.whole = not message.get("more_body", False)

    await endpoint(scope, receive, send)
    reply.body = b"".join(pieces)
    return reply
