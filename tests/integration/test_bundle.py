"""A bundle brings Sumika to a machine that reaches no index: made of real packages, laid down by what is in it, and refused when touched."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sumika.cli.bundling import laydown, members, pack, wheels
from sumika.cli.bundling.laydown import ABOUT, INSTALLER, NAMESPACE, SIGNATURE, SUMS, Refused, lay_down
from sumika.cli.bundling.wheels import Source
from sumika.models import importing, signing
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store
from tests.conftest import ROOT, write_base

# Whoever asks an index for something in spite of all gets no answer.
CLOSED = {
    "PATH": os.environ["PATH"], "LANG": "en_US.UTF-8", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}  # fmt: skip


@dataclass
class Bundle:
    file: Path
    key: Path
    made: pack.Made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All that a gateway runs on, and one model. Engines and trainings, which are gigabytes, come along in the same way."""
    folder = tmp_path_factory.mktemp("open")
    home = Home(folder / "home")
    home.create()
    store = Store(f"sqlite:///{home.database}")
    store.migrate()
    write_base(folder / "base")
    version = importing.import_base(store, home, "kotoba", folder / "base", meta={"licence": {"id": "Apache-2.0"}})
    wanted = pack.Wanted(ROOT / "constraints" / "cpu.txt", frozenset(), [version.ref], [])
    file = folder / "sumika.bundle"
    made = pack.create(store, home, ROOT, wanted, Source(), file, force=False, progress=lambda *_: None)
    store.close()
    key = folder / "honsha.pub"
    key.write_text(signing.line(signing.show(home)) + "\n")
    return Bundle(file, key, made)


def run(*command: object, cwd: Path, home: Path | None = None) -> str:
    environment = CLOSED | ({"SUMIKA_HOME": str(home)} if home else {}) | {"HOME": str(cwd)}
    told = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr + told.stdout
    return told.stdout


def test_closed_machine_checks_it_lays_it_down_after_a_power_cut_and_uses_it(bundle: Bundle, tmp_path: Path) -> None:
    there, to, home = tmp_path, tmp_path / "opt", tmp_path / "home"
    # As docs/airgap.md says: OpenSSH and coreutils check what is run before it is run.
    run("tar", "-xf", bundle.file, SUMS, SIGNATURE, INSTALLER, cwd=there)
    (there / "allowed").write_text(f"sumika {bundle.key.read_text()}")
    check = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "sumika", "-n", NAMESPACE, "-s", SIGNATURE]
    with (there / SUMS).open() as sums:
        assert b"Good" in subprocess.run(check, cwd=there, stdin=sums, capture_output=True, check=True).stdout
    assert f"{INSTALLER}: OK" in run("sha256sum", "--check", "--ignore-missing", SUMS, cwd=there)

    release, before = to / bundle.made.release, to / "0.0.1-cpu-00000000"
    before.mkdir(parents=True)
    (to / "current").symlink_to(before.name)
    command = [sys.executable, "-I", INSTALLER, bundle.file, "--key", bundle.key, "--to", to]
    killed = subprocess.Popen(command, cwd=there, env=CLOSED, stdout=subprocess.DEVNULL, start_new_session=True)
    while not (release / ".venv" / "bin" / "python").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert (to / "current").resolve() == before.resolve(), "half a release is never the current one"

    said = run(*command, cwd=there)

    assert (to / "current").resolve() == release.resolve()
    assert not list(to.glob("**/*.part"))
    assert not (release / "wheels").exists()
    assert f"models import kotoba {to}/models/kotoba@1.sumika" in said
    sumika = to / "bin" / "sumika"
    run(sumika, "signing", "trust", bundle.key, "honsha", cwd=there, home=home)
    run(sumika, "models", "import", "kotoba", to / "models" / "kotoba@1.sumika", cwd=there, home=home)
    assert "kotoba@1" in run(sumika, "models", "list", "--json", cwd=there, home=home)
    catalog = json.loads(run(sumika, "models", "catalog", "--json", cwd=there, home=home))
    assert "gemma-3-270m" in {entry["id"] for entry in catalog}, "configs came along, and are found from any folder"
    units = run(sumika, "install", "--systemd", "--dry-run", cwd=there, home=home)
    assert f"{to}/current/.venv/bin/python" in units, "a unit follows the release that is current"
    others = stat.S_IROTH
    assert all(path.stat().st_mode & others for path in release.rglob("*") if path.is_file()), "the services' user may read it"
    paper = json.loads((release / "sbom.json").read_text())
    named = {component["name"] for component in paper["components"]}
    assert {"fastapi", "kotoba"} <= named
    assert "pytest" not in named

    run(sumika, "signing", "trust", bundle.key, "honsha", "--for", "bundles", cwd=there, home=home)
    again = run(sumika, "bundle", "install", bundle.file, "--to", to, "--json", cwd=there, home=home)
    assert json.loads(again)["fresh"] is False


def test_same_checkout_makes_the_same_release_and_leaves_secrets_at_home(bundle: Bundle, tmp_path: Path) -> None:
    secret = ROOT / "deploy" / "docker" / "secrets" / "test_bundle_secret"
    made_folder = not secret.parent.exists()
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("nobody else's")
    try:
        along = [str(path.relative_to(ROOT)) for path in pack._along(ROOT)]
    finally:
        secret.unlink()
        if made_folder:
            secret.parent.rmdir()
    assert "configs/sumika.yaml" in along
    assert not [name for name in along if "secret" in name.split("/") or "test_bundle_secret" in name]
    with tarfile.open(bundle.file) as tar:
        held = {name.removeprefix("tree/") for name in tar.getnames() if name.startswith("tree/")}
    assert held == set(along)


def test_package_that_is_not_pinned_stops_it(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    run("tar", "-xf", bundle.file, "--wildcards", "wheels/sumika-*", cwd=tmp_path)
    ours = next((tmp_path / "wheels").iterdir())
    pins = tmp_path / "few.txt"
    pins.write_text(
        "".join(line for line in (ROOT / "constraints" / "cpu.txt").read_text().splitlines(True) if "fastapi" not in line)
    )
    with pytest.raises(SumikaError) as refused:
        wheels.gather(ours, frozenset(), pins, set(), Source(), tmp_path / "wheels")
    assert refused.value.code == "unpinned"
    assert "fastapi" in str(refused.value)


def test_folder_that_lacks_a_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(SumikaError) as refused:
        wheels.build(ROOT, Source(tmp_path), tmp_path / "wheels")
    assert refused.value.code == "packages_missing"


# What follows needs no real packages: a bundle is made as pack.py makes it, of a few bytes, and touched.

Parts = dict[str, bytes]


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def about(**changes: object) -> bytes:
    told = {"format": 1, "release": "1.0-cpu-0123abcd", "bytes": 10, "models": []} | laydown.machine() | changes
    return json.dumps(told).encode()


def written(file: Path, key: Ed25519PrivateKey, parts: Parts, namespace: str = NAMESPACE) -> Path:
    from sumika.models import sshsig

    every = [members.of_text(name, data.decode()) for name, data in parts.items()]
    with file.open("wb") as target:
        members.write(target, every, lambda sums: sshsig.armored(key, sums, namespace), lambda *_: None)
    return file


def refusal(file: Path, key: Ed25519PrivateKey, to: Path) -> str:
    """Why it is refused; nothing is current after it, and no file of it has its name."""
    with pytest.raises(Refused) as refused:
        lay_down(file, [public(key)], to)
    assert refused.value.ja
    assert not (to / "current").exists()
    return refused.value.en


GOOD: Parts = {INSTALLER: b"print()", ABOUT: about(), "tree/configs/a.yaml": b"a: 1\n", "tree/b.md": b"b" * 3000}


def current(to: Path, made_at: str) -> Path:
    """A release that is current, as far as the next installation looks."""
    (to / "1.0-cpu-current").mkdir(parents=True)
    (to / "1.0-cpu-current" / ABOUT).write_bytes(about(release="1.0-cpu-current", made_at=made_at))
    (to / "current").symlink_to("1.0-cpu-current")
    return to


def test_older_signed_release_is_refused_unless_asked_for(
    tmp_path: Path, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laydown, "_environment", lambda release: None)
    file = written(tmp_path / "a.bundle", key, GOOD | {ABOUT: about(made_at="2026-10-01T00:00:00.000000Z")})
    to = current(tmp_path / "opt", "2026-11-01T00:00:00.000000Z")
    with pytest.raises(Refused, match="--allow-downgrade"):
        lay_down(file, [public(key)], to)
    assert (to / "current").resolve().name == "1.0-cpu-current" and not (to / "1.0-cpu-0123abcd").exists()
    assert lay_down(file, [public(key)], to, allow_downgrade=True).fresh
    assert (to / "current").resolve().name == "1.0-cpu-0123abcd"
    newer = written(tmp_path / "b.bundle", key, GOOD | {ABOUT: about(made_at="2026-12-01T00:00:00.000000Z", release="2.0-cpu-0")})
    assert lay_down(newer, [public(key)], to).release.name == "2.0-cpu-0"
    with pytest.raises(Refused, match="--allow-downgrade"):
        lay_down(file, [public(key)], to)  # though it lies there whole


def test_every_flipped_byte_is_refused(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    file = written(tmp_path / "a.bundle", key, GOOD)
    with tarfile.open(file) as tar:
        # The signature's last bytes are a line's end behind its armour, and say nothing.
        places = [
            member.offset_data + at
            for member in tar
            for at in (0, member.size // 2, member.size - 1 - 9 * (member.name == SIGNATURE))
        ]
        headers = [member.offset for member in tar]
    data = file.read_bytes()
    for place in [*places, *headers]:
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        refusal(file, key, tmp_path / "to")
        assert not (tmp_path / "to" / "1.0-cpu-0123abcd" / laydown.MARK).exists()


@pytest.mark.parametrize("cut", [0, 100, 512, 1500, 6000])
def test_shortened_file_is_refused(tmp_path: Path, key: Ed25519PrivateKey, cut: int) -> None:
    file = written(tmp_path / "a.bundle", key, GOOD)
    file.write_bytes(file.read_bytes()[:cut])
    refusal(file, key, tmp_path / "to")


def rewritten(file: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    with tarfile.open(file) as tar:
        held = [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]
    change(held)
    with tarfile.open(file, "w") as tar:
        for info, data in held:
            tar.addfile(info, io.BytesIO(data))


def stranger(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.append(stranger("tree/more")),
        lambda held: held.append(stranger("../../outside")),
        lambda held: held.append(stranger("/etc/outside")),
        lambda held: held.append(stranger("tree/b.md", b"other")),
        lambda held: held.append(stranger("tree/link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        lambda held: held.append(stranger("tree/null", b"", type=tarfile.CHRTYPE)),
        lambda held: held.pop(2),
        lambda held: held.pop(),
    ],
    ids=["one more", "outside", "absolute", "twice", "link", "device", "one less", "no signature"],
)  # fmt: skip
def test_any_other_member_is_refused(
    tmp_path: Path, key: Ed25519PrivateKey, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]
) -> None:
    file = written(tmp_path / "a.bundle", key, GOOD)
    rewritten(file, change)
    refusal(file, key, tmp_path / "to")
    assert not (tmp_path / "to").exists(), "refused before anything was written"


def test_signature_of_another_key_or_purpose_is_refused(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    file = written(tmp_path / "a.bundle", Ed25519PrivateKey.generate(), GOOD)
    assert "signed" in refusal(file, key, tmp_path / "to")
    file = written(tmp_path / "b.bundle", key, GOOD, namespace="file")
    assert "signed" in refusal(file, key, tmp_path / "to")
    with pytest.raises(Refused):
        lay_down(file, [], tmp_path / "to")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"python": "3.12"}, "Python 3.12"),
        ({"platform": "linux-aarch64"}, "aarch64"),
        ({"format": 2}, "install.py"),
        ({"release": "../x"}, "install.py"),
        ({"bytes": 2**60}, "free"),
    ],
)
def test_bundle_for_another_machine_is_refused(
    tmp_path: Path, key: Ed25519PrivateKey, changes: dict[str, object], word: str
) -> None:
    file = written(tmp_path / "a.bundle", key, GOOD | {ABOUT: about(**changes)})
    assert word in refusal(file, key, tmp_path / "to")


def test_signed_name_that_leads_out_is_refused(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    file = written(tmp_path / "a.bundle", key, GOOD | {"tree/../../outside": b"x"})
    refusal(file, key, tmp_path / "to")
    assert not (tmp_path / "outside").exists()


def test_two_installations_at_once_are_one(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    file, to = written(tmp_path / "a.bundle", key, GOOD), tmp_path / "to"
    to.mkdir()
    with laydown._alone(to):
        assert "running" in refusal(file, key, to)


DOCKER = """#!/bin/sh
case "$1" in
  image) for last; do :; done; test "$last" != gone/image:1;;
  save) shift; echo "$@" > "$2";;
esac
"""


def test_images_come_from_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no daemon here: what is asked of `docker` is what is tested."""
    from sumika.cli.bundling import images

    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    named = images.named(ROOT / "docker-compose.yml", {"SUMIKA_IMAGE": "sumika:1"})
    assert "sumika:1" in named
    assert not [name for name in named if "$" in name]
    images.save(["a:1", f"b:2@sha256:{'e' * 64}"], tmp_path / "images.tar")  # who loads it knows tags alone
    assert (tmp_path / "images.tar").read_text().split()[-2:] == ["a:1", "b:2"]
    with pytest.raises(SumikaError, match="gone/image:1"):
        images.save(["a:1", "gone/image:1"], tmp_path / "other.tar")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SumikaError) as refused:
        images.save(["a:1"], tmp_path / "other.tar")
    assert refused.value.code == "images_missing"


def test_sums_are_those_of_coreutils(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    file = written(tmp_path / "a.bundle", key, GOOD)
    run("tar", "-xf", file, cwd=tmp_path)
    run("sha256sum", "--check", "--strict", SUMS, cwd=tmp_path)
    assert hashlib.sha256(GOOD["tree/b.md"]).hexdigest() in (tmp_path / SUMS).read_text()


def command(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = CLOSED | {"SUMIKA_HOME": str(home), "HOME": str(home.parent)}
    line = [sys.executable, "-m", "sumika.cli.main", "bundle", *map(str, words)]
    return subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_command_line_says_what_is_missing_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    made = command(tmp_path / "home", "create", tmp_path / "a.bundle", "--engine", "cpu", "--from", tmp_path / "none")
    assert made.returncode == 1 and "--from" in made.stderr and "Traceback" not in made.stderr
    unknown = command(tmp_path / "home", "create", tmp_path / "a.bundle", "--engine", "cpu", "--model", "gone@1")
    assert unknown.returncode and "gone@1" in unknown.stderr
    (tmp_path / "b.bundle").write_bytes(b"no bundle" * 1000)
    for file in ("b.bundle", "gone.bundle"):
        laid = command(tmp_path / "home", "install", tmp_path / file, "--to", tmp_path / "opt")
        assert laid.returncode == 1 and "Traceback" not in laid.stderr
        assert file in laid.stderr or "Copy it again" in " ".join(laid.stderr.split())
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / "a.bundle").exists() and not (tmp_path / "opt").exists()
