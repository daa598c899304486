"""The images of docker-compose.yml in one file, for a machine that reaches no registry."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from sumika.models.errors import SumikaError, quoted

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def named(compose: Path, environment: Mapping[str, str]) -> list[str]:
    """Every image that the file's services run, of every profile."""
    services = yaml.safe_load(compose.read_text())["services"].values()
    return sorted({_VARIABLE.sub(lambda found: environment.get(found[1]) or found[2], service["image"]) for service in services})


def save(images: list[str], file: Path) -> None:
    """Raises SumikaError `images_missing`: without Docker, or where one of them is not on this machine."""
    docker = shutil.which("docker")
    if docker is None:
        raise _missing("docker is not installed here", "dockerがありません")
    if gone := [image for image in images if _run(docker, "image", "inspect", "--format", "{{.Id}}", image)]:
        names = ", ".join(gone)
        raise _missing(
            f"not on this machine: {names}. Run 'docker compose build' and 'docker pull' for them first",
            f"このマシンにないイメージ: {names}。先に docker compose build と docker pull を実行してください",
        )
    # A digest does not outlive `docker save`: who loads the file knows an image by its tag, and the file by the bundle's signature.
    tags = {image: image.partition("@")[0] for image in images}
    for image, tag in tags.items():
        if tag != image and (said := _run(docker, "tag", image, tag)):
            raise _missing(said, said)
    if said := _run(docker, "save", "--output", str(file), *tags.values()):
        raise _missing(said, said)


def _run(*command: str) -> str:
    """What it complains of; empty where it went well."""
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return quoted(told.stderr.strip() or f"exit {told.returncode}", 300) if told.returncode else ""


def _missing(en: str, ja: str) -> SumikaError:
    return SumikaError(
        "images_missing",
        f"The images can't be put into the bundle: {en}. Without --images the bundle holds everything for an installation by systemd.",
        f"イメージをバンドルに入れられません: {ja}。--images を付けなければ、systemdで導入するためのすべてが入ります。",
    )
