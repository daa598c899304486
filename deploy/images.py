#!/usr/bin/env python3
"""`make images`: ask the registries for the digests of the images in images.lock, and write them wherever the images are named.

Without an argument registries are asked, by `docker buildx imagetools inspect`; with `apply` only what stands in the file is written.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "images.lock"
UNPINNED = "unpinned"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read() -> dict[str, str]:
    """Digest, or `unpinned`, by image and tag."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return dict(lines)  # type: ignore[arg-type]


def ask(image: str) -> str:
    """What the registry has under this tag: of an image for several platforms the digest of their list."""
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image]
    digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not DIGEST.fullmatch(digest):
        raise SystemExit(f"{image}: the registry named no digest")
    return digest


def apply(pins: dict[str, str]) -> None:
    """Write `pins` into every file that names one of these images."""
    compose, dockerfile = HERE.parent / "docker-compose.yml", HERE / "docker" / "Dockerfile"
    for image, digest in pins.items():
        pin = "" if digest == UNPINNED else f"@{digest}"
        _rewrite(compose, rf"(image: {re.escape(image)})(?:@\S+)?$", pin)
        _rewrite(dockerfile, rf"(ARG PYTHON_IMAGE={re.escape(image)})(?:@\S+)?$", pin)
        name, _, tag = image.rpartition(":")
        for file in (HERE / "kubernetes").glob("*/kustomization.yaml"):
            _rewrite(file, rf"(- {{name: {re.escape(name)}, newTag: {re.escape(tag)})(?:@[^}}]+)?(?=}})", pin)


def _rewrite(file: Path, place: str, pin: str) -> None:
    text = file.read_text()
    changed = re.sub(place, lambda found: found[1] + pin, text, flags=re.MULTILINE)
    if changed != text:
        file.write_text(changed)


def main(arguments: list[str]) -> None:
    pins = read()
    if arguments != ["apply"]:
        pins = {image: ask(image) for image in pins}
        head = "".join(f"{line}\n" for line in LOCK.read_text().splitlines() if line.startswith("#"))
        LOCK.write_text(head + "".join(f"{image} {digest}\n" for image, digest in sorted(pins.items())))
    apply(pins)


if __name__ == "__main__":
    main(sys.argv[1:])
