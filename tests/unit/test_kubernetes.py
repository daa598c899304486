"""What deploy/kubernetes renders: valid for Kubernetes, hardened to the last container, and as the compose file has it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sumika.models.settings import load_settings
from sumika.serving.access import TABLE
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
RENDERED = ("cpu", "gpu", "monitoring")
# The oldest that a supported Kubernetes may be, and one of today's.
VERSIONS = ("1.29", "1.34")
# Made by the administrator, as docs/kubernetes.md says; nothing secret is in the repository.
SECRETS = {"postgres": {"password"}, "tls": {"tls.crt", "tls.key"}, "metrics": {"metrics_key"}, "grafana": {"password"}}
Object = dict[str, Any]


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Object]]:
    def render(name: str) -> list[Object]:
        told = subprocess.run(["/usr/bin/kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True, timeout=60)
        assert told.returncode == 0 and not told.stderr, told.stderr
        return [one for one in yaml.safe_load_all(told.stdout) if one]

    return {name: render(name) for name in RENDERED}


@pytest.fixture(scope="module")
def together(rendered: dict[str, list[Object]]) -> list[Object]:
    """All that runs with monitoring."""
    return rendered["gpu"] + rendered["monitoring"]


def of_kind(objects: list[Object], *kinds: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def workloads(objects: list[Object]) -> dict[str, Object]:
    """Name → Pod's spec."""
    return {name: one["spec"]["template"]["spec"] for name, one in of_kind(objects, "StatefulSet", "Deployment").items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RENDERED)
def test_kubernetes_schema_takes_every_object_and_knows_every_field(
    rendered: dict[str, list[Object]], name: str, version: str
) -> None:
    for one in rendered[name]:
        kubernetes_validate.validate(one, version, strict=True)


def test_schema_would_refuse_a_slip(rendered: dict[str, list[Object]]) -> None:
    pod = yaml.safe_load(yaml.safe_dump(of_kind(rendered["cpu"], "StatefulSet")["sumika"]))
    pod["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


def test_every_object_is_in_the_namespace_that_admits_only_restricted_pods(together: list[Object]) -> None:
    namespace = of_kind(together, "Namespace")["sumika"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"].get("namespace") for one in together if one["kind"] != "Namespace"} == {"sumika"}
    kinds = {one["kind"] for one in together}
    assert not kinds & {"Secret", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount", "Ingress"}


def test_every_pod_and_container_is_hardened(together: list[Object]) -> None:
    found = workloads(together)
    assert set(found) == {"sumika", "postgres", "valkey", "caddy", "prometheus", "grafana"}
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "serviceAccountName"} & set(pod), name
        safe = pod["securityContext"]
        assert safe["runAsNonRoot"] is True and safe["runAsUser"] > 0 and safe["runAsGroup"] > 0, name
        assert safe["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume], name
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume), name
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }, name  # fmt: skip
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"], name
            assert container["livenessProbe"] and container["readinessProbe"], name
            assert not any("hostPort" in port for port in container["ports"]), name


def test_images_are_those_of_the_compose_file(together: list[Object]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    compose = {service["image"] for service in services.values()}
    images = {pod["containers"][0]["image"] for name, pod in workloads(together).items() if name != "sumika"}
    assert images <= compose
    users = {name: int(service["user"].partition(":")[0]) for name, service in services.items() if "user" in service}
    assert {name: pod["securityContext"]["runAsUser"] for name, pod in workloads(together).items() if name in users} == {
        name: user for name, user in users.items() if name in workloads(together)
    }
    for name in ("valkey", "prometheus"):
        assert workloads(together)[name]["containers"][0]["args"] == [str(word) for word in services[name]["command"]]


def test_only_the_gpu_overlay_asks_for_gpus(rendered: dict[str, list[Object]]) -> None:
    limits = {name: workloads(rendered[name])["sumika"]["containers"][0]["resources"]["limits"] for name in ("cpu", "gpu")}
    assert limits["gpu"]["nvidia.com/gpu"] == 1 and "nvidia.com/gpu" not in limits["cpu"]
    assert workloads(rendered["gpu"])["sumika"]["containers"][0]["image"].endswith("-cuda")


def test_what_pods_mount_and_read_is_there_or_is_the_administrators(together: list[Object]) -> None:
    configs = of_kind(together, "ConfigMap")
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    for name, one in of_kind(together, "StatefulSet", "Deployment").items():
        pod = one["spec"]["template"]["spec"]
        claimed = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == set(volumes) | claimed, f"{name}: mounted and declared are the same"
            for variable in container.get("env", []):
                if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert secret["key"] in SECRETS[secret["name"]], name
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs, name
            if "secret" in volume:
                keys = {item["key"] for item in volume["secret"].get("items", [])}
                assert keys <= SECRETS[volume["secret"]["secretName"]], name
                assert volume["secret"]["defaultMode"] == 0o440, name
    for secret in SECRETS:
        assert re.search(rf"create secret (generic|tls) {secret}\b", documented), secret


def test_services_reach_the_ports_of_their_pods(together: list[Object]) -> None:
    ports = {
        name: {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
        for name, pod in workloads(together).items()
    }
    services = of_kind(together, "Service")
    for service in services.values():
        target = service["spec"]["selector"]["app.kubernetes.io/name"]
        assert all(port["targetPort"] in ports[target] for port in service["spec"]["ports"])
    outside = [name for name, one in services.items() if one["spec"].get("type", "ClusterIP") != "ClusterIP"]
    assert outside == ["sumika"] and services["sumika"]["spec"]["ports"] == [
        {"name": "https", "port": 443, "targetPort": "https"}
    ]
    known = {f"{name}:{port['port']}" for name, one in services.items() for port in one["spec"]["ports"]}
    settings = yaml.safe_load(
        next(one for name, one in of_kind(together, "ConfigMap").items() if name.startswith("sumika-settings"))["data"][
            "sumika.yaml"
        ]
    )
    named = [settings["gateway"]["limits_url"].removeprefix("redis://").partition("/")[0]]
    named += [value for variable in workloads(together)["caddy"]["containers"][0]["env"] if (value := variable["value"])]
    named += re.findall(r'targets: \["([^"]+)"\]', (ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())
    assert set(named) <= known


def test_settings_are_ours_and_the_probes_answer_without_a_key(together: list[Object], tmp_path: Path) -> None:
    data = next(one for name, one in of_kind(together, "ConfigMap").items() if name.startswith("sumika-settings"))["data"]
    (tmp_path / "sumika.yaml").write_text(data["sumika.yaml"])
    settings = load_settings(tmp_path / "sumika.yaml")
    container = workloads(together)["sumika"]["containers"][0]
    home = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "home")
    assert settings.home.is_relative_to(home) and settings.home != Path(home)
    assert settings.port == container["ports"][0]["containerPort"] and settings.finetune.worker
    grace = workloads(together)["sumika"]["terminationGracePeriodSeconds"]
    gateway_s = settings.gateway.shutdown_delay_s + settings.gateway.drain_timeout_s
    assert grace > max(gateway_s + settings.engine.stop_timeout_s, 120), "a training may save, and answers may end"
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "/health/live",
        "/health/ready",
    }
    open_to_all = {rule.path for rule in TABLE if rule.endpoint is None}
    assert {"/health/live", "/health/ready"} <= open_to_all


def test_nothing_is_reached_but_what_is_named(together: list[Object]) -> None:
    policies = of_kind(together, "NetworkPolicy")
    assert policies["nothing-by-itself"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    lines = {(source, target, port) for source, target, port in _lines(policies)}
    assert lines == {
        ("caddy", "sumika", 8000), ("caddy", "grafana", 3000), ("sumika", "postgres", 5432), ("sumika", "valkey", 6379),
        ("prometheus", "sumika", 8000), ("grafana", "prometheus", 9090),
    }  # fmt: skip
    assert _lines(policies, direction="ingress") == lines, "what may be sent may be taken, and the other way round"
    anywhere = [name for name, one in policies.items() for rule in one["spec"].get("ingress", []) if "from" not in rule]
    assert anywhere == ["caddy"], "TLS alone is open to all"
    assert not [
        rule for one in policies.values() for rule in one["spec"].get("egress", []) if "to" not in rule or "ipBlock" in str(rule)
    ]


def _lines(policies: dict[str, Object], direction: str = "egress") -> set[tuple[str, str, int]]:
    lines = set()
    for policy in policies.values():
        own = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        for rule in policy["spec"].get(direction, []):
            for peer in rule.get("to" if direction == "egress" else "from", []):
                for other in _names(peer.get("podSelector", {})):
                    lines |= {
                        ((own, other) if direction == "egress" else (other, own)) + (port["port"],) for port in rule["ports"]
                    }
    return lines


def _names(selector: Object) -> list[str]:
    named = [value for key, value in selector.get("matchLabels", {}).items() if key == "app.kubernetes.io/name"]
    return named + [value for expression in selector.get("matchExpressions", []) for value in expression["values"]]
