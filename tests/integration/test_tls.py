"""A real Caddy with our Caddyfile before a real gateway: TLS, streams that flow, and nothing of what clients claim."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sumika.models import engines
from tests.conftest import ROOT
from tests.integration.conftest import Stack, free_port, until


def certificate(folder: Path) -> Path:
    """A company's own, for localhost; the file that clients trust."""
    folder.mkdir()
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False).sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "server.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "server.crt"


class Front:
    def __init__(self, port: int, trusted: Path, stack: Stack) -> None:
        self.port, self.stack = port, stack
        self.context = ssl.create_default_context(cafile=str(trusted))

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.stack.admin_key}"}
        return httpx.Client(base_url=f"https://localhost:{self.port}", verify=self.context, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def front(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    work = tmp_path_factory.mktemp("caddy")
    trusted, port, health = certificate(work / "tls"), free_port(), free_port()
    text = (ROOT / "deploy" / "caddy" / "Caddyfile").read_text()
    assert text.count(":8443") == text.count("127.0.0.1:8081") == 1
    (work / "Caddyfile").write_text(text.replace(":8443", f":{port}").replace(":8081", f":{health}"))
    env = os.environ | {
        "SUMIKA_TLS": str(work / "tls"), "SUMIKA_GATEWAY": f"{stack.settings.host}:{stack.settings.port}", "HOME": str(work), "XDG_DATA_HOME": str(work),
        "XDG_CONFIG_HOME": str(work),
    }  # fmt: skip
    command = ["/usr/bin/caddy", "run", "--config", str(work / "Caddyfile"), "--adapter", "caddyfile"]
    stack.deploy("talk", stack.base())
    with (work / "caddy.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _answers(health), within=20, what="caddy")
        assert process.poll() is None, (work / "caddy.log").read_text()
        yield Front(port, trusted, stack)
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    except httpx.TransportError:
        return False


CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


def test_requests_pass_and_browsers_are_told_to_stay(front: Front) -> None:
    with front.client() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200 and answer.json()["choices"]
        assert (
            answer.headers["strict-transport-security"] == "max-age=31536000"
            and "caddy" not in answer.headers.get("server", "").lower()
        )
        assert client.get("/console").status_code in (200, 303, 307)


def test_events_come_one_by_one(front: Front) -> None:
    front.stack.script(chunks=6, chunk_delay_s=0.3)
    moments = []
    with front.client() as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                moments.append(time.monotonic())
    front.stack.script()
    assert len(moments) >= 6 and moments[5] - moments[0] > 1.0


def test_client_that_leaves_ends_its_generation(front: Front) -> None:
    front.stack.script(chunks=200, chunk_delay_s=0.1)
    with front.stack.store.read() as connection:
        [engine] = engines.list_all(connection)
    with front.client() as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        next(response.iter_lines())
        until(lambda: front.stack.running(engine) == 1)
        response.close()
    until(lambda: front.stack.running(engine) == 0, within=3, what="the engine stops")
    front.stack.script()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(front: Front, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("localhost", front.port), timeout=5) as link, pytest.raises(ssl.SSLError):
        context.wrap_socket(link, server_hostname="localhost")


def test_plain_http_gets_nothing(front: Front) -> None:
    with socket.create_connection(("localhost", front.port), timeout=5) as link:
        link.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert link.recv(4096).startswith(b"HTTP/1.0 400")


def test_metrics_are_for_the_inside(front: Front) -> None:
    with front.client() as client:
        assert client.get("/metrics").status_code == 404
        assert httpx.get(f"{front.stack.url}/metrics", headers=client.headers).status_code == 200


def test_what_a_client_claims_of_itself_is_not_believed(front: Front) -> None:
    claimed = {
        "x-forwarded-for": "203.0.113.9",
        "x-real-ip": "203.0.113.9",
        "forwarded": "for=203.0.113.9",
        "x-forwarded-user": "root",
    }
    with front.client() as client:
        assert client.get("/v1/models", headers=claimed | {"authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/v1/chat/completions", json=CHAT, headers=claimed).status_code == 200
    assert "203.0.113.9" not in front.stack.logs()


def test_errors_of_the_gateway_come_through(front: Front) -> None:
    with front.client() as client:
        answer = client.post(
            "/v1/chat/completions", content=b"{" + b" " * (3 * 2**20), headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert client.get("/v1/nothing").json()["error"]["code"] == "path_not_found"
