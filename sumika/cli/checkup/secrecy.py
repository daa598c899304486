"""Who can read what only Sumika should: its home, keys, database, and settings with passwords."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sumika.cli.checkup.finding import Finding, fail, fine, warn
from sumika.models.home import Home
from sumika.models.sandbox import Kind, Setting

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def secrets_in(home: Home) -> list[Path]:
    """Keys, the database and what witnesses the log, as far as they are there."""
    found = [*home.root.glob("*.key"), *home.root.glob(f"{home.database.name}*"), home.checkpoints]
    return sorted(path for path in found if path.is_file())


def private(paths: Iterable[Path]) -> Finding:
    """Each of `paths` is there."""
    opened = [path for path in paths if path.stat().st_mode & _OTHERS]
    if opened:
        told = " ".join(str(path) for path in opened)
        return fail(
            "private_files",
            f"others can read secrets; run: chmod 600 {told}",
            f"他の利用者が秘密を読めます。実行してください: chmod 600 {told}",
        )
    return fine(
        "private_files", "keys and database are readable by this user alone", "鍵とデータベースはこのユーザーだけが読めます"
    )


def folder(root: Path) -> Finding:
    if root.exists() and root.stat().st_mode & _OTHERS:
        return warn(
            "private_home", f"others can look into the home, where weights and records lie; run: chmod 700 {root}",
            f"他の利用者がホーム(重みと記録)を参照できます。実行してください: chmod 700 {root}",
        )  # fmt: skip
    return fine("private_home", "the home is this user's alone", "ホームはこのユーザー専用です")


def settings_file(path: Path, data: Mapping[str, Any]) -> Finding:
    """`data`: what stands in the file at `path`. A file without a password may be read by anybody."""
    gateway = data.get("gateway")
    urls = [data.get("database_url"), gateway.get("limits_url") if isinstance(gateway, dict) else None]
    if path.exists() and path.stat().st_mode & stat.S_IRWXO and any(_has_password(url) for url in urls):
        return fail(
            "settings_file", f"{path} holds a password and everybody can read it; run: chmod 600 {path}",
            f"{path} にパスワードがあり、誰でも読めます。実行してください: chmod 600 {path}",
        )  # fmt: skip
    return fine("settings_file", "no password stands open in the settings file", "設定ファイルのパスワードは保護されています")


def engines(setting: Setting, usable: Sequence[Kind]) -> Finding:
    """What keeps engines and trainings from keys, the database and other teams' files. `setting`: engine.sandbox; `usable`: those that
    work for this user here, which for a service or in a container may be others."""
    kind = usable[0] if setting == "auto" else setting
    if kind not in usable:
        return fail(
            "sandbox", f"engine.sandbox is {kind}, which does not work for this user here; install it and allow it, or set auto",
            f"engine.sandbox は {kind} ですが、この利用者では使えません。導入・許可するか auto にしてください",
        )  # fmt: skip
    trainings = "landlock" if kind != "none" and "landlock" in usable else "none"
    if "none" in (kind, trainings):
        who, ja = ("engines and trainings", "エンジンと学習") if kind == "none" else ("trainings", "学習")
        return warn(
            "sandbox", f"{who} run without a sandbox and read what this user reads, keys and database too; see 'The sandbox' in docs/operations.md",
            f"{ja}がサンドボックスなしで動き、鍵やデータベースも読めます。docs/operations.ja.md の「サンドボックス」を参照してください",
        )  # fmt: skip
    return fine(
        "sandbox",
        f"engines run in a sandbox ({kind}), trainings too ({trainings})",
        f"エンジン({kind})と学習({trainings})はサンドボックスで動きます",
    )


def client_secrets(paths: Iterable[Path]) -> Finding:
    """Files that the settings name; a service's group may read them, everybody may not."""
    opened = [path for path in paths if path.is_file() and path.stat().st_mode & stat.S_IRWXO]
    if opened:
        told = " ".join(str(path) for path in opened)
        return fail(
            "client_secrets",
            f"everybody can read client secrets; run: chmod o= {told}",
            f"誰でもクライアントシークレットを読めます。実行してください: chmod o= {told}",
        )
    return fine("client_secrets", "no client secret lies open", "クライアントシークレットは保護されています")


def _has_password(url: Any) -> bool:
    try:
        return isinstance(url, str) and bool(make_url(url).password)
    except ArgumentError:
        return False
