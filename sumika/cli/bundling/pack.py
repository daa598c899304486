"""Make a bundle: gather what goes in, and write it, signed (its reader is `laydown.py`)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sumika.cli import bill
from sumika.cli.bundling import images, laydown, members, wheels
from sumika.cli.bundling.laydown import ABOUT, IMAGES, INSTALLER, MODELS, REQUIREMENTS, TREE, WHEELS
from sumika.cli.bundling.members import Member, of_file, of_text
from sumika.cli.bundling.wheels import Source
from sumika.models import archive, clock, exporting, registry, signing, wholefile
from sumika.models.artifacts import Progress
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.store import Store

_COMES_ALONG = ("configs", "constraints", "deploy", "docs", "samples", "docker-compose.yml", "LICENSE", "README.md")
# Made on a server by deploy/docker/prepare.sh and nobody else's; and what Python leaves behind.
_STAYS = frozenset({"secrets", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a bundle shall hold. `constraints`: the file that pins it. `images`: of Docker, none where it is empty."""

    constraints: Path
    extras: frozenset[str]
    versions: list[VersionRef]
    images: list[str]


@dataclass(frozen=True, slots=True)
class Made:
    """`models`: names of the archives in it, bases first."""

    release: str
    bytes: int
    packages: int
    models: list[str]


def create(
    store: Store, home: Home, tree: Path, wanted: Wanted, source: Source, file: Path, *, force: bool, progress: Progress
) -> Made:
    """Write a bundle to `file`, signed with this Sumika's key. `tree`: a checkout.

    Raises:
        SumikaError: `no_checkout`; `packages_missing`; `unpinned`; `images_missing`; `not_found`; `broken_artifact`; `exists`; `disk_full`.
    """
    if not (tree / "pyproject.toml").is_file():
        raise _no_checkout(tree)
    with store.read() as connection:
        versions = sorted((registry.get(connection, ref) for ref in wanted.versions), key=lambda found: found.base is not None)
    with tempfile.TemporaryDirectory(prefix="sumika-bundle.") as name:
        scratch = Path(name)
        (scratch / WHEELS).mkdir()
        ours = wheels.build(tree, source, scratch / WHEELS)
        pins = wheels.gather(ours, wanted.extras, wanted.constraints, _left_out(tree), source, scratch / WHEELS)
        found = sorted((scratch / WHEELS).iterdir())
        own = [
            of_text(INSTALLER, Path(laydown.__file__).read_text()),
            of_text(REQUIREMENTS, pins),
            of_file(f"{WHEELS}/{ours.name}", ours),
            *(of_file(f"{TREE}/{path.relative_to(tree)}", path) for path in _along(tree)),
        ]
        rest = [of_file(f"{WHEELS}/{path.name}", path) for path in found if path != ours]
        rest += [_archive(store, home, version) for version in versions]
        if wanted.images:
            images.save(wanted.images, scratch / IMAGES)
            rest.append(of_file(IMAGES, scratch / IMAGES))
        version = wheels.distribution(ours).version
        release = f"{version}-{wanted.constraints.stem}-{members.digest(own)[:8]}"
        models = [archive_name(version) for version in versions]
        every = [*own, *rest, *_papers(found, versions)]
        every.append(_about(release, models, sum(member.size for member in every) + wheels.unpacked_bytes(found)))
        with wholefile.written(file, sum(member.size for member in every), force=force) as target:
            members.write(target, every, lambda sums: signing.sign_for_ssh(home, sums, laydown.NAMESPACE), progress)
    return Made(release, file.stat().st_size, len(found), models)


def archive_name(version: Version) -> str:
    return f"{version.ref}{archive.SUFFIX}"


def _about(release: str, models: list[str], needed: int) -> Member:
    """`bytes`: room that an installation needs."""
    about = {"format": laydown.FORMAT, "release": release, "made_at": clock.now(), "bytes": needed, "models": models}
    return of_text(ABOUT, json.dumps(about | laydown.machine(), indent=1))


def _papers(found: list[Path], versions: list[Version]) -> Iterator[Member]:
    """What a reviewer asks for first: what it is made of, under which terms."""
    packages = {str(canonicalize_name(one.name)): one for one in map(wheels.distribution, found)}
    yield of_text("sbom.json", bill.bill(packages, versions))
    terms = {f"{name} {one.version}": bill.licence(one.metadata) for name, one in sorted(packages.items())}
    terms |= bill.licences_of_models(versions)
    yield of_text("licences.txt", "".join(f"{name}\t{licence or '-'}\n" for name, licence in terms.items()))


def _along(tree: Path) -> Iterator[Path]:
    for name in _COMES_ALONG:
        for path in sorted((tree / name).rglob("*")) if (tree / name).is_dir() else [tree / name]:
            parts = path.relative_to(tree).parts
            if path.is_file() and not path.is_symlink() and not any(part in _STAYS or part.startswith(".") for part in parts):
                yield path


def _left_out(tree: Path) -> set[str]:
    lines = (tree / "constraints" / "overrides.txt").read_text().splitlines()
    return {str(canonicalize_name(Requirement(line).name)) for line in lines if line and not line.startswith("#")}


def _archive(store: Store, home: Home, version: Version) -> Member:
    header, _ = exporting.outgoing(store, home, version.ref)
    return Member(
        f"{MODELS}/{archive_name(version)}", archive.size(header), lambda: exporting.outgoing(store, home, version.ref)[1]
    )


def _no_checkout(tree: Path) -> SumikaError:
    return SumikaError(
        "no_checkout",
        f"A bundle is made from a checkout of Sumika, and {tree} is none: clone the repository, run 'make install', and call .venv/bin/sumika there.",
        f"バンドルはSumikaのソースから作成します({tree} はソースではありません)。リポジトリを取得して make install を実行し、そこの .venv/bin/sumika を使ってください。",
    )
