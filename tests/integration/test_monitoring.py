"""What a Prometheus is told: true figures of a running stack, by names of the registry alone."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT
from tests.integration.conftest import Stack, free_port, until

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", autouse=True)
def faq(stack: Stack) -> None:
    base = stack.base()
    stack.deploy("talk", base)
    for seed in (1, 2):
        stack.deploy("faq", stack.adapter("faq", base, seed=seed, proven=True))


def figures(stack: Stack, path: str = "/metrics") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with stack.client() as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_tokens_and_their_pace_are_counted_by_alias(stack: Stack) -> None:
    before = figures(stack)
    stack.script(chunks=5, chunk_delay_s=0.05)
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT | {"model": "faq", "stream": True}) as answer,
    ):
        answer.read()
    stack.script()

    def more(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return figures(stack).get(key, 0) - before.get(key, 0)

    until(lambda: more("sumika_requests_total", alias="faq", status="200") == 1, what="the request is counted")
    assert (
        more("sumika_tokens_total", alias="faq", kind="prompt") > 0
        and more("sumika_tokens_total", alias="faq", kind="completion") > 0
    )
    assert more("sumika_token_seconds_count", alias="faq") == 1


def test_engines_moves_audit_and_disk_stand_as_they_are(stack: Stack) -> None:
    told = figures(stack)
    assert told["sumika_base_engines", (("base", "base@1"), ("state", "ready"))] == 1
    assert told["sumika_alias_version", (("alias", "faq"), ("version", "faq@2"))] == 1
    assert told["sumika_moves_total", (("kind", "deploy"), ("state", "done"))] == 3
    assert told["sumika_move_seconds_count", (("kind", "deploy"),)] == 3
    assert told["sumika_audit_rows_total", ()] >= 3 and told["sumika_gateway_workers", ()] == 1
    assert 0 < told["sumika_disk_free_bytes", ()] < told["sumika_disk_size_bytes", ()]


def test_engines_tell_their_own_by_base_and_nothing_that_is_not_named(stack: Stack) -> None:
    told = figures(stack, "/metrics/engines")
    running = {labels: value for (name, labels), value in told.items() if name == "vllm:num_requests_running"}
    assert [dict(labels)["base"] for labels in running] == ["base@1"]
    assert all(name.startswith(("vllm:", "sumika_engine_answers")) for name, _ in told)
    assert not any("adapter" in dict(labels) or "model_name" in dict(labels) for _, labels in told)


def test_a_thousand_made_up_names_make_no_new_line(stack: Stack) -> None:
    lines = len(figures(stack))
    with stack.client() as client:
        for number in range(1_000):
            assert client.post("/v1/chat/completions", json=CHAT | {"model": f"none-{number}"}).status_code == 404
    assert len(figures(stack)) <= lines + 20


@pytest.mark.parametrize("path", ["/metrics", "/metrics/engines"])
def test_figures_are_for_keys_that_may(stack: Stack, path: str) -> None:
    secret, _ = stack.new_key()
    watcher, _ = stack.new_key(role="admin", endpoints=["metrics", "models"])
    url = f"{stack.url}{path}"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {secret}"}).status_code == 403
    assert httpx.get(url, headers={"authorization": f"Bearer {watcher}"}).status_code == 200


MONITORING = ROOT / "deploy" / "monitoring"
# There is nothing to show where no GPU is, and while no training runs.
MAY_BE_EMPTY = ("sumika_gpu_", "sumika_job_progress_ratio", "sumika_job_tokens_per_second")


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Debian's, with our own configuration: only where to ask, by which key and how often are the test's."""
    work, port = tmp_path_factory.mktemp("prometheus"), free_port()
    key, _ = stack.new_key(role="admin", endpoints=["metrics", "models"])
    (work / "key").write_text(key)
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "alerts.yml")]
    for job in config["scrape_configs"]:
        assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_key"}
        job["authorization"]["credentials_file"] = str(work / "key")
        job["static_configs"] = [{"targets": [f"{stack.settings.host}:{stack.settings.port}"]}]
    (work / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        "/usr/bin/prometheus",
        f"--config.file={work}/prometheus.yml",
        f"--storage.tsdb.path={work}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20)
    try:
        until(lambda: process.poll() is not None or len(_up(client)) == 2, what="both are scraped")
        assert process.poll() is None, (work / "log").read_text()
        yield client
    finally:
        process.terminate()
        process.wait(20)
        client.close()


def _up(client: httpx.Client) -> list[Any]:
    try:
        answer = client.get("/query", params={"query": "up"})
    except httpx.TransportError:
        return []
    return [one for one in answer.json()["data"]["result"] if one["value"][1] == "1"] if answer.status_code == 200 else []


def asked(client: httpx.Client, query: str) -> list[Any]:
    answer = client.get("/query", params={"query": query})
    assert answer.status_code == 200, (query, answer.text)
    found: list[Any] = answer.json()["data"]["result"]
    return found


def queries() -> list[str]:
    boards = [json.loads(path.read_text()) for path in sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))]
    assert len(boards) == 2
    return [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]


def test_real_prometheus_shows_every_panel_and_evaluates_every_rule(stack: Stack, prometheus: httpx.Client) -> None:
    stack.script(chunks=10, chunk_delay_s=0.1)
    deadline = time.monotonic() + 6  # a rate takes two looks, and what is under way must be seen so
    while time.monotonic() < deadline:
        for alias in ("talk", "faq"):
            with (
                stack.client() as client,
                client.stream("POST", "/v1/chat/completions", json=CHAT | {"model": alias, "stream": True}) as answer,
            ):
                answer.read()
    stack.script()
    empty = [
        query
        for query in queries()
        if not until(lambda query=query: asked(prometheus, query) or any(x in query for x in MAY_BE_EMPTY), what=query)
    ]
    assert not empty
    assert len(queries()) > 25
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    told = until(lambda: _evaluated(prometheus), what="every rule was evaluated")
    assert {rule["name"]: rule["health"] for rule in told} == {rule["alert"]: "ok" for rule in rules}
    assert not [rule["name"] for rule in told if rule["state"] == "firing"]


def _evaluated(client: httpx.Client) -> list[Any] | None:
    rules: list[Any] = client.get("/rules").json()["data"]["groups"][0]["rules"]
    return rules if all(rule["health"] != "unknown" for rule in rules) else None


def test_every_alert_says_what_to_do() -> None:
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    for rule in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]:
        assert f"**{rule['alert']}**" in guide
        assert " / " in rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize(
    ("alert", "series", "fires"),
    [
        ("ManyErrors", {'sumika_requests_total{alias="faq",status="500"}': "0+10x30", 'sumika_requests_total{alias="faq",status="200"}': "0+10x30"}, True),
        ("ManyErrors", {'sumika_requests_total{alias="faq",status="404"}': "0+10x30", 'sumika_requests_total{alias="faq",status="200"}': "0+10x30"}, False),
        ("NoEngineReady", {'sumika_base_engines{base="b@1",state="ready"}': "0x30", 'sumika_base_engines{base="b@1",state="failed"}': "1x30"}, True),
        ("NoEngineReady", {'sumika_base_engines{base="b@1",state="ready"}': "0x30", 'sumika_base_engines{base="b@1",state="asleep"}': "1x30"}, False),
        ("DiskFull", {"sumika_disk_free_bytes": "5x30", "sumika_disk_size_bytes": "100x30"}, True),
        ("GatewayDown", {'up{job="sumika"}': "0x30"}, True),
    ],
)  # fmt: skip
def test_alert_fires_when_it_should(tmp_path: Path, alert: str, series: dict[str, str], fires: bool) -> None:
    """By promtool's own unit tests of rules."""
    rule = next(r for r in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"] if r["alert"] == alert)
    test = {
        "rule_files": [str(MONITORING / "alerts.yml")],
        "tests": [{"interval": "1m", "input_series": [{"series": name, "values": values} for name, values in series.items()],
                   "promql_expr_test": [{"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)', "eval_time": "25m",
                                         "exp_samples": [{"labels": "{}", "value": int(fires)}]}]}],
    }  # fmt: skip
    assert rule["expr"]
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    told = subprocess.run(
        ["/usr/bin/promtool", "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
