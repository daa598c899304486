"""What is fetched comes by hash: the tools that install Sumika, what builds it, and container images."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sumika.cli.bundling import wheels
from sumika.cli.bundling.wheels import Source
from sumika.models.errors import SumikaError
from tests.conftest import ROOT

TOOLS = ROOT / "constraints" / "tools.txt"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def locked() -> dict[str, str]:
    lines = (line.split() for line in (ROOT / "deploy" / "images.lock").read_text().splitlines() if not line.startswith("#"))
    return dict(lines)  # type: ignore[arg-type]


def test_tools_and_what_builds_sumika_are_pinned_with_hashes() -> None:
    pins = re.findall(r"^(\S+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", TOOLS.read_text() + "\n", re.MULTILINE)
    assert {"uv", "hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers"} <= {name for name, _ in pins}
    wanted = re.findall(r"^([\w-]+==[\w.]+)", (ROOT / "constraints" / "tools.in").read_text(), re.MULTILINE)
    assert wanted and all(one in TOOLS.read_text() for one in wanted)
    (backend,) = re.findall(r'requires = \["(hatchling==[\d.]+)"\]', (ROOT / "pyproject.toml").read_text())
    assert backend in wanted


@pytest.mark.parametrize("file", ["Makefile", "deploy/docker/Dockerfile"])
def test_nothing_is_installed_without_a_hash(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if re.search(r"pip (install|sync) ", line) and not line.startswith("#")]
    assert len(installs) >= 2
    for line in installs:
        assert "--require-hashes" in line or "--build-constraints constraints/tools.txt" in line, line
        assert "==" not in line, "versions stand in constraints/ alone"


def test_wheel_is_built_by_what_the_hashes_say(tmp_path: Path) -> None:
    """Whatever an index gives for hatchling: with another hash nothing is built, so nothing of it runs."""
    tree = tmp_path / "tree"
    (tree / "constraints").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "sumika").mkdir()
    (tree / "sumika" / "__init__.py").touch()
    lines = re.sub(r"(hatchling==.*\\\n)(?:    --hash=.*\n)+", rf"\1    --hash=sha256:{'0' * 64}\n", TOOLS.read_text())
    (tree / "constraints" / "tools.txt").write_text(lines)
    with pytest.raises(SumikaError) as refused:
        wheels.build(tree, Source(), tmp_path)
    assert refused.value.code == "packages_missing" and not list(tmp_path.glob("*.whl"))


def test_images_are_those_of_the_lock_wherever_they_are_named() -> None:
    pins, found = locked(), set()
    assert all(DIGEST.fullmatch(digest) or digest == "unpinned" for digest in pins.values())
    for service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values():
        if "SUMIKA_IMAGE:" not in service["image"]:
            name, _, digest = service["image"].partition("@")
            assert pins[name] == (digest or "unpinned")
            found.add(name)
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "deploy" / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    name, _, digest = python.partition("@")
    assert pins[name] == digest
    assert found | {name} == pins.keys()
    loaded = yaml.safe_load((ROOT / "deploy" / "docker" / "loaded.yml").read_text())["services"].values()
    assert {service["image"] for service in loaded} == found, "the same by their tags"
    for file in (ROOT / "deploy" / "kubernetes").glob("*/kustomization.yaml"):
        for one in yaml.safe_load(file.read_text()).get("images", ()):
            tag, _, digest = one["newTag"].partition("@")
            assert one["name"] == "sumika" or pins[f"{one['name']}:{tag}"] == (digest or "unpinned")


def test_writing_the_lock_again_changes_nothing_and_a_new_digest_goes_everywhere(tmp_path: Path) -> None:
    for name in ("deploy", "docker-compose.yml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: path.read_text() for path in files}
    command = [sys.executable, str(tmp_path / "deploy" / "images.py"), "apply"]
    subprocess.run(command, check=True)
    assert {path: path.read_text() for path in files} == before
    lock = tmp_path / "deploy" / "images.lock"
    old, new = locked()["postgres:16.10-bookworm"], f"sha256:{'e' * 64}"
    lock.write_text(
        lock.read_text().replace(old, new).replace("grafana/grafana:11.6.4 unpinned", f"grafana/grafana:11.6.4 {new}")
    )
    subprocess.run(command, check=True)
    changed = {
        path.relative_to(tmp_path).as_posix(): path.read_text().count(new) for path in files if path.read_text() != before[path]
    }
    assert changed == {
        "deploy/images.lock": 2, "docker-compose.yml": 2, "deploy/kubernetes/base/kustomization.yaml": 1,
        "deploy/kubernetes/monitoring/kustomization.yaml": 1,
    }  # fmt: skip
