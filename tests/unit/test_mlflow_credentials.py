"""What an MLflow server is told of us: the credentials that an administrator listed for it, and nobody else's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sumika.models.errors import SumikaError
from sumika.models.tracking_settings import TrackingServer

RUN = {
    "info": {"run_id": "r", "experiment_id": "1", "status": "RUNNING", "start_time": 1, "lifecycle_stage": "active"},
    "data": {},
}


class Server(ThreadingHTTPServer):
    """Stands in for MLflow, and keeps what it was shown; `leads_to` redirects everything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shown: list[str | None] = []
        self.leads_to = ""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.shown.append(self.headers.get("authorization"))
        body: dict[str, Any] = {}
        if "get-by-name" in self.path:
            body = {"experiment": {"experiment_id": "1", "name": "x"}}
        elif "runs/create" in self.path:
            body = {"run": RUN}
        sent = json.dumps(body).encode()
        self.send_response(302 if self.server.leads_to else 200)
        if self.server.leads_to:
            self.send_header("location", self.server.leads_to + self.path)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    both = Server(), Server()
    yield both
    for one in both:
        one.shutdown()
        one.server_close()


@pytest.fixture(autouse=True)
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of this machine's user, which MLflow and requests would show to any server."""
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "stranger")
    for name in (
        "NETRC",
        "MLFLOW_ALLOW_HTTP_REDIRECTS",
        "MLFLOW_DISABLE_TELEMETRY",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
    ):
        monkeypatch.setenv(name, "")  # as it was, afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = stranger\nmlflow_tracking_password = stranger\n"
    )
    (tmp_path / ".netrc").write_text("default login stranger password stranger\n")
    (tmp_path / ".netrc").chmod(0o600)
    (tmp_path / "token").write_text("listed-token\n")
    (tmp_path / "password").write_text("pass word\n")


def follow(server: Server, listed: TrackingServer | None) -> set[str | None]:
    """What the server was shown over a whole run."""
    from sumika.finetune.training.mlflow_run import MlflowRun

    run = MlflowRun(server.url, listed, "x", "run", {"a": {"b": 1}})
    run.figures({"loss": 1.0}, 1)
    run.end("FINISHED")
    assert len(server.shown) >= 5
    return set(server.shown)


def test_server_of_the_list_is_shown_its_own_credentials(servers: tuple[Server, Server], tmp_path: Path) -> None:
    one, other = servers
    assert follow(one, TrackingServer(name="a", url=one.url, token_file=tmp_path / "token")) == {"Bearer listed-token"}
    listed = TrackingServer(name="b", url=other.url, username="sumika", password_file=tmp_path / "password")
    assert follow(other, listed) == {"Basic c3VtaWthOnBhc3Mgd29yZA=="}


def test_address_and_a_server_without_credentials_are_shown_none(servers: tuple[Server, Server]) -> None:
    one, other = servers
    assert follow(one, None) == {None} and follow(other, TrackingServer(name="a", url=other.url)) == {None}


def test_redirect_is_not_followed(servers: tuple[Server, Server], tmp_path: Path) -> None:
    one, other = servers
    one.leads_to = other.url
    with pytest.raises(SumikaError) as told:
        follow(one, TrackingServer(name="a", url=one.url, token_file=tmp_path / "token"))
    assert told.value.code == "tracking_failed" and "experiment_id" not in told.value.en and other.shown == []


def test_credentials_that_cannot_be_read_are_told_before_anything_is_sent(servers: tuple[Server, Server], tmp_path: Path) -> None:
    for content in (None, b"", b"\xff", b"a\nb"):
        file = tmp_path / "gone"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SumikaError) as told:
            follow(servers[0], TrackingServer(name="a", url=servers[0].url, token_file=file))
        assert told.value.code == "tracking_failed" and "finetune.tracking" in told.value.en and servers[0].shown == []
