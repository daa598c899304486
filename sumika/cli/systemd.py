"""Units for sites without Docker, from the templates in `units/`: what they hold follows this installation and its settings."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from sqlalchemy import make_url

from sumika.models.errors import SumikaError
from sumika.models.home import write_atomically
from sumika.models.settings import Settings
from sumika.models.tree import TREE

HOME = Path("/var/lib/sumika")
CONFIG = Path("/etc/sumika/sumika.yaml")
ENVIRONMENT = Path("/etc/sumika/sumika.env")
UNITS = Path("/etc/systemd/system")
USERS = Path("/etc/sysusers.d/sumika.conf")
TARGET = "sumika.target"
SERVICES = ("sumika-gateway.service", "sumika-supervisor.service", "sumika-worker.service")

# What the roles themselves wait before they go, and a little more.
_SLACK_S = 30
_MARK = "# Written by 'sumika install'; changes belong into 'systemctl edit'. sha256="
_NVIDIA = """DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-caps rw
DeviceAllow=char-nvidia-uvm rw"""
_LOCAL = """# Nothing that a model reads leaves this machine from here.
IPAddressDeny=any
IPAddressAllow=localhost"""
_CONFIG = """# Settings of Sumika; all there are, with their meaning: {example}
home: {home}
"""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is there now; `fresh`: it was not there, or another one."""

    path: Path
    fresh: bool


def units(settings: Settings, *, gpu: bool) -> dict[Path, str]:
    """Path → text of everything that systemd reads. `gpu`: engines and trainings may open NVIDIA's devices."""
    folder = files("sumika.cli") / "units"
    words = _words(settings, gpu=gpu)
    common = Template((folder / "common").read_text()).substitute(words)
    texts = {UNITS / name: Template((folder / name).read_text()).substitute(words, common=common) for name in (TARGET, *SERVICES)}
    return texts | {USERS: f'u sumika - "Sumika" {HOME}\n'}


def install(settings: Settings, *, gpu: bool, root: Path = Path("/")) -> list[Written]:
    """Write all of it under `root`, each file whole or not at all. Settings that are there already are left alone.

    Raises:
        SumikaError: `edited_by_hand`, naming a unit that somebody changed; then nothing was written.
    """
    texts = {root / path.relative_to("/"): _marked(text) for path, text in units(settings, gpu=gpu).items()}
    for path in texts:
        _check_ours(path)
    written = [_write(path, text, 0o644) for path, text in texts.items()]
    config, environment = (root / path.relative_to("/") for path in (CONFIG, ENVIRONMENT))
    if not config.exists():
        written.append(_write(config, _CONFIG.format(example=TREE / "configs" / "sumika.yaml", home=HOME), 0o644))
    if not environment.exists():
        written.append(_write(environment, "# SUMIKA_DATABASE_URL=postgresql+psycopg://sumika:…@host/sumika\n", 0o600))
    return written


def _words(settings: Settings, *, gpu: bool) -> Mapping[str, object]:
    at_home = any(path.is_relative_to(home) for path in (Path(sys.prefix), TREE) for home in ("/home", "/root"))
    return {
        "python": sys.executable, "home": HOME, "config": CONFIG, "environment": ENVIRONMENT, "docs": TREE / "docs",
        "gateway_stop_s": round(settings.gateway.shutdown_delay_s + settings.gateway.drain_timeout_s + _SLACK_S),
        "supervisor_stop_s": round(settings.engine.stop_timeout_s + _SLACK_S),
        "protect_home": "read-only" if at_home else "yes",
        "accelerator": _NVIDIA if gpu else "PrivateDevices=yes", "network": _network(settings),
    }  # fmt: skip


def _network(settings: Settings) -> str:
    """Loopback alone; and the database, where it has an address elsewhere. By a name it could be anywhere, so all is left open."""
    host = make_url(settings.database_url).host if settings.database_url else None
    if host in (None, "", "localhost"):
        return _LOCAL
    try:
        return f"{_LOCAL}\nIPAddressAllow={ipaddress.ip_address(str(host))}"
    except ValueError:
        return "# The database is known by its name, so no address is denied: name it by its address in SUMIKA_DATABASE_URL and install again."


def _marked(text: str) -> str:
    return f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _check_ours(path: Path) -> None:
    if not path.exists():
        return
    first, _, text = path.read_text(errors="replace").partition("\n")
    if (
        not re.fullmatch(re.escape(_MARK) + "[0-9a-f]{64}", first)
        or first.removeprefix(_MARK) != hashlib.sha256(text.encode()).hexdigest()
    ):
        raise SumikaError(
            "edited_by_hand",
            f"{path} is not as 'sumika install' wrote it, so it is left alone and nothing was written. Keep changes in 'systemctl edit {path.name}', remove {path}, and install again.",
            f"{path} は 'sumika install' が書いた内容から変更されているため、何も書き込みませんでした。変更は 'systemctl edit {path.name}' に移し、{path} を削除してからやり直してください。",
        )


def _write(path: Path, text: str, mode: int) -> Written:
    if path.exists() and path.read_text() == text:
        return Written(path, fresh=False)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_atomically(path, text.encode(), mode=mode)
    return Written(path, fresh=True)
