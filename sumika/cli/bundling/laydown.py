"""Lay a bundle down on a machine without a network. This file travels in it as `install.py`, so it knows Python's own library alone.

    tar -xf sumika.bundle SHA256SUMS SHA256SUMS.sig install.py
    ssh-keygen -Y verify -f allowed_signers -I sumika -n sumika-bundle -s SHA256SUMS.sig < SHA256SUMS
    sha256sum --check --ignore-missing SHA256SUMS
    python3.11 install.py sumika.bundle --key honsha.pub --to /opt/sumika

A bundle is a plain tar. `SHA256SUMS` names every other member, and is signed; whatever is not in it, or not as it says, is refused
before it has a name on this disk. `TO/RELEASE` is whole or has no mark and is laid anew; `TO/current` moves when all is there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUMS, SIGNATURE, INSTALLER, ABOUT = "SHA256SUMS", "SHA256SUMS.sig", "install.py", "bundle.json"
REQUIREMENTS, WHEELS, TREE, MODELS, IMAGES = "requirements.txt", "wheels", "tree", "models", "images.tar"
NAMESPACE, SIGNER = "sumika-bundle", "sumika"
FORMAT = 1
MARK = ".whole"
_LONGEST = 4 * 2**20
_CHUNK = 2**20
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.@+-]+(?:/[\w.@+-]+)*)", re.ASCII)
_RELEASE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}", re.ASCII)
_WRAPPER = '#!/bin/sh\nexec "{python}" -m sumika.cli.main "$@"\n'


class Refused(Exception):
    """Why a bundle is not laid down, in English and Japanese."""

    def __init__(self, en: str, ja: str) -> None:
        super().__init__(en)
        self.en, self.ja = en, ja


@dataclass(frozen=True)
class Laid:
    """`fresh`: it was not there before. `models`: archives for `sumika models import`, bases first."""

    release: Path
    fresh: bool
    models: list[Path]
    images: Path | None


def lay_down(bundle: Path, keys: list[str], to: Path, *, allow_downgrade: bool = False) -> Laid:
    """Check `bundle`, signed by one of `keys` (OpenSSH lines), and make it the current release under `to`. One that was made before the
    current release, which somebody may have kept for its faults, only with `allow_downgrade`.

    Raises:
        Refused: what is current stays so; a release without its mark may lie there, which the next call sweeps up.
    """
    try:
        return _lay_down(bundle, keys, to, allow_downgrade)
    except OSError as error:
        raise Refused(f"{error.filename or to}: {error.strerror}", f"{error.filename or to}: {error.strerror}") from error


def _lay_down(bundle: Path, keys: list[str], to: Path, allow_downgrade: bool) -> Laid:
    with _members(bundle) as (tar, members):
        sums = _checked_sums(tar, members, keys)
        about = _about(_read(tar, members[ABOUT], sums[ABOUT]))
        release = to / about["release"]
        to.mkdir(parents=True, exist_ok=True, mode=0o755)
        with _alone(to):
            if not allow_downgrade:
                _check_newer(to, about)
            fresh = not (release / MARK).exists()
            if fresh:
                _check_room(to, about["bytes"])
                shutil.rmtree(release, ignore_errors=True)
                for name, digest in sums.items():
                    _write(tar, members[name], digest, _place(name, release, to))
                _environment(release)
                os.sync()
                (release / MARK).touch()
            _switch(to, release)
    models = [to / MODELS / name for name in about["models"]]
    return Laid(release, fresh, models, to / IMAGES if IMAGES in sums else None)


@contextmanager
def _members(bundle: Path) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
    try:
        with tarfile.open(bundle, "r:") as tar:
            members = {}
            for member in tar:
                if not member.isreg() or member.name in members:
                    raise _damaged(f"'{member.name[:100]!a}' is there twice, or is no plain file")
                members[member.name] = member
            if missing := {SUMS, SIGNATURE, ABOUT} - set(members):
                raise _damaged(f"{min(missing)} is missing")
            yield tar, members
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(str(error)[:200]) from error


def _checked_sums(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], keys: list[str]) -> dict[str, str]:
    """Member → SHA-256, signed by somebody whom this machine believes."""
    raw, signature = (_read(tar, members[name], None) for name in (SUMS, SIGNATURE))
    _check_signature(raw, signature, keys)
    sums = {}
    for line in raw.decode("ascii", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or ".." in match[2].split("/") or match[2] in sums:
            raise _damaged(f"{SUMS} has a line that no Sumika writes")
        sums[match[2]] = match[1]
    if strange := set(sums) ^ (set(members) - {SUMS, SIGNATURE}):
        raise _damaged(f"'{min(strange)[:100]!a}' is only in one of {SUMS} and the bundle")
    return sums


def _check_signature(data: bytes, signature: bytes, keys: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        allowed, signed = Path(folder, "allowed"), Path(folder, "signature")
        allowed.write_text("".join(f'{SIGNER} namespaces="{NAMESPACE}" {" ".join(key.split()[:2])}\n' for key in keys))
        signed.write_bytes(signature)
        command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", SIGNER, "-n", NAMESPACE, "-s", str(signed)]
        try:
            told = subprocess.run(command, input=data, capture_output=True, check=False)
        except FileNotFoundError:
            raise Refused(
                "ssh-keygen is not installed, and checks the bundle's signature: install OpenSSH's client and try again.",
                "署名の検証に必要な ssh-keygen がありません。OpenSSHクライアントをインストールしてからやり直してください。",
            ) from None
    if told.returncode:
        raise Refused(
            "The bundle is not signed by the key that was given (or one trusted for bundles: 'sumika signing trust FILE NAME --for bundles'), or was changed after that. Compare the fingerprint with what 'sumika signing show' prints where it was made, and copy it again.",
            "バンドルの署名が、指定された鍵(または sumika signing trust FILE NAME --for bundles で信頼した鍵)のものではないか、署名後に変更されています。作成元の sumika signing show の指紋を確認し、コピーし直してください。",
        )


def _about(raw: bytes) -> dict[str, Any]:
    about = json.loads(raw)
    if about.get("format") != FORMAT or not _RELEASE.fullmatch(about["release"]):
        raise Refused(
            "The bundle is of another format than this installer reads: use the install.py that is in it.",
            "バンドルの形式がこのインストーラーと異なります。バンドルに含まれる install.py を使ってください。",
        )
    here = machine()
    if {name: about[name] for name in here} != here:
        wants = f"Python {about['python']} on {about['platform']}"
        raise Refused(
            f"The bundle is for {wants}, and this is Python {here['python']} on {here['platform']}. Run it with that Python, or make a bundle for this machine.",
            f"このバンドルは {wants} 用ですが、ここは Python {here['python']} ({here['platform']}) です。該当するPythonで実行するか、このマシン用のバンドルを作成してください。",
        )
    return dict(about)


def _check_newer(to: Path, about: dict[str, Any]) -> None:
    try:
        current = json.loads((to / "current" / ABOUT).read_bytes())
    except FileNotFoundError:
        return
    made, before = str(about.get("made_at", "")), str(current.get("made_at", ""))
    if made < before:
        raise Refused(
            f"This bundle was made on {made[:10]}, and the current release {current['release']} later, on {before[:10]}: an older release may have faults that are mended since. To go back to it on purpose, add --allow-downgrade.",
            f"このバンドルの作成日は {made[:10]} で、現在のリリース {current['release']}({before[:10]})より古いものです。修正済みの不具合が残っている可能性があります。意図して戻す場合は --allow-downgrade を付けてください。",
        )


def machine() -> dict[str, str]:
    """What compiled packages must fit."""
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "platform": sysconfig.get_platform()}


def _check_room(to: Path, needed: int) -> None:
    free = shutil.disk_usage(to).free
    if free < needed:
        raise Refused(
            f"{to} needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free. Make room, or choose another folder with --to.",
            f"{to} に {needed / 2**30:.1f} GiB 必要ですが、空きは {free / 2**30:.1f} GiB です。空きを作るか --to で別の場所を指定してください。",
        )


@contextmanager
def _alone(to: Path) -> Iterator[None]:
    with open(to / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"Another installation into {to} is running; wait for its end.",
                f"{to} への別のインストールが実行中です。終了を待ってください。",
            ) from None
        yield


def _place(name: str, release: Path, to: Path) -> Path:
    """Where a member goes: the tree's files to the release itself, what outlives a release beside it."""
    head, _, rest = name.partition("/")
    if head == TREE:
        return release / rest
    return to / name if head == MODELS or name == IMAGES else release / name


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, digest: str | None) -> bytes:
    file = tar.extractfile(member)
    data = file.read(_LONGEST + 1) if file else b""
    if len(data) > _LONGEST or digest not in (None, hashlib.sha256(data).hexdigest()):
        raise _damaged(f"{member.name} is not as it was signed")
    return data


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, digest: str, place: Path) -> None:
    """Under its own name only when its hash fits."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    part, hasher = place.with_name(f".{place.name}.part"), hashlib.sha256()
    source = tar.extractfile(member)
    with part.open("wb") as target:
        while source and (chunk := source.read(_CHUNK)):
            hasher.update(chunk)
            target.write(chunk)
    if hasher.hexdigest() != digest:
        part.unlink()
        raise _damaged(f"{member.name} is not as it was signed")
    part.replace(place)


def _environment(release: Path) -> None:
    """The release's own packages, by hash, from the wheels that came along; they are not kept."""
    wheels, python = release / WHEELS, release / ".venv" / "bin" / "python"
    ours, pip = (next(wheels.glob(f"{name}-*.whl")) for name in ("sumika", "pip"))
    install = [str(python), f"{pip}/pip", "install", "--quiet", "--isolated", "--no-index", "--no-deps", "--no-cache-dir"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(release / ".venv")],
        [*install, "--require-hashes", "--find-links", str(wheels), "--requirement", str(release / REQUIREMENTS)],
        [*install, str(ours)],
        [str(python), "-m", "sumika.cli.main", "--help"],
    ):
        told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=release)
        if told.returncode:
            said = (told.stderr or told.stdout).strip()[-500:]
            raise Refused(f"{' '.join(command[:4])} … failed: {said}", f"{' '.join(command[:4])} … に失敗しました: {said}")
    shutil.rmtree(wheels)


def _switch(to: Path, release: Path) -> None:
    fresh = to / ".current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(release.name)
    fresh.replace(to / "current")
    command = to / "bin" / "sumika"
    command.parent.mkdir(exist_ok=True, mode=0o755)
    part = command.with_name(".sumika.part")
    part.write_text(_WRAPPER.format(python=to.resolve() / "current" / ".venv" / "bin" / "python"))
    part.chmod(0o755)
    part.replace(command)


def _damaged(said: str) -> Refused:
    return Refused(
        f"The bundle can't be used: {said}. Copy it again from where it was made.",
        f"バンドルを使えません: {said}。作成元からコピーし直してください。",
    )


def _keys(given: str) -> list[str]:
    text = given if given.startswith("ssh-ed25519 ") else Path(given).read_text()
    return [line for line in text.splitlines() if line.startswith("ssh-ed25519 ")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Lay a Sumika bundle down, checked and without a network. / バンドルを検証し、ネットワークなしで導入します。"
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--key", required=True, help="the maker's public key: a file, or what 'sumika signing show' printed / 作成元の公開鍵"
    )
    parser.add_argument("--to", type=Path, required=True, help="where releases lie, for example /opt/sumika / 導入先")
    parser.add_argument(
        "--allow-downgrade",
        action="store_true",
        help="even where the current release was made later / 現在より古いリリースでも導入",
    )
    given = parser.parse_args()
    try:
        laid = lay_down(given.bundle, _keys(given.key), given.to, allow_downgrade=given.allow_downgrade)
    except Refused as refused:
        sys.exit(f"{refused.ja}\n{refused.en}")
    sys.stdout.write("\n".join([*next_steps(laid, given.to), ""]))


def next_steps(laid: Laid, to: Path) -> list[str]:
    """Commands, in their order."""
    sumika = to / "bin" / "sumika"
    return [
        f"{laid.release}: {'laid down / 導入しました' if laid.fresh else 'was there already / 導入済み'}",
        f"{sumika} doctor",
        *(f"{sumika} models import {path.name.partition('@')[0]} {path}" for path in laid.models),
        *([f"docker load --input {laid.images}"] if laid.images else []),
    ]


if __name__ == "__main__":
    os.umask(0o022)
    main()
