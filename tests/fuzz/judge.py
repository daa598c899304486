"""The rule for every answer, whatever was asked."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_CODE = re.compile(r"[a-z][a-z0-9_]{2,40}")
# A message may repeat 200 characters of what was sent, and has its own words.
_MOST_MESSAGE = 700
# What is wrong with a job's YAML, line by line.
_LISTS = ("bad_config",)


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        return json.loads(self.body)["error"]["code"] if self.status >= 400 else None


@dataclass
class Client:
    """One connection to the gateway, opened again where it was closed. Counts what it was told."""

    host: str
    port: int
    key: str
    told: Counter[tuple[str, int]] = field(default_factory=Counter)
    _link: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Told:
        sent = {"authorization": f"Bearer {self.key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        for attempt in (1, 2):
            link = self._link or http.client.HTTPConnection(self.host, self.port, timeout=30)
            try:
                link.request(method, path, body, sent)
                response = link.getresponse()
                told = Told(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            except (http.client.HTTPException, OSError):
                self.close()
                link.close()
                if attempt == 2:
                    raise
                continue
            self._link = None if response.will_close else link
            if response.will_close:
                link.close()
            self.told[path.partition("?")[0], told.status] += 1
            return told
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def check(told: Told, allowed: frozenset[int]) -> None:
    """Documented, ours in form, short, one line, and nobody's fault but the sender's."""
    assert told.status != 500, told.body[:2_000]
    assert told.status in allowed, (told.status, sorted(allowed), told.body[:500])
    if told.status >= 400:
        check_envelope(told.body)
        assert told.headers.get("content-type", "").startswith("application/json"), told.headers
    assert "x-request-id" in told.headers


def check_envelope(body: bytes) -> str:
    """The code of an error."""
    error = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} == error.keys(), error
    assert _CODE.fullmatch(error["code"]), error
    assert isinstance(error["message"], str) and 0 < len(error["message"]) <= _MOST_MESSAGE, error
    lines = error["message"].split("\n")
    assert all(line.isprintable() for line in lines) and (len(lines) == 1 or error["code"] in _LISTS), error
    assert error["param"] is None or (isinstance(error["param"], str) and len(error["param"]) <= 250), error
    return str(error["code"])


def raw(host: str, port: int, data: bytes, timeout: float = 25) -> bytes:
    """What comes back to `data` on a connection of its own until it is closed."""
    answer = b""
    with socket.create_connection((host, port), timeout=timeout) as link:
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while chunk := link.recv(65_536):
                answer += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass  # cut while it was still being sent
    return answer
