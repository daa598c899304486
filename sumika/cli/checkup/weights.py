"""The files of versions: there, and, deeply, as they were imported."""

from __future__ import annotations

from collections.abc import Sequence

from sumika.cli.checkup.finding import Finding, fail, fine, warn

_SHOWN = 5


def there(missing: Sequence[str]) -> Finding:
    """`missing`: versions in the registry whose folder is gone."""
    if missing:
        return fail(
            "weights", f"files of {_some(missing)} are gone; restore a backup, or import and deploy again",
            f"{_some(missing)} のファイルがありません。バックアップから復元するか、取り込み直してください",
        )  # fmt: skip
    return fine("weights", "the files of every version are there", "すべてのバージョンのファイルがあります")


def named(strange: Sequence[str]) -> Finding:
    """`strange`: versions whose folder holds files of other names or sizes than were imported; no engine starts with those."""
    if strange:
        return fail(
            "weights_names", f"files of {_some(strange)} are others than were imported, and are not served; 'sumika models verify NAME@N' names them",
            f"{_some(strange)} のファイルが取り込み時と異なるため、配備されません。sumika models verify 名前@番号 で確認してください",
        )  # fmt: skip
    return fine("weights_names", "no version has files of other names or sizes", "ファイルの名前とサイズは取り込み時のままです")


def intact(changed: Sequence[str]) -> Finding:
    """`changed`: versions whose files are not as they were imported."""
    if changed:
        return fail(
            "weights_hashes", f"{_some(changed)} differ from what was imported; 'sumika models verify NAME@N' names the bytes",
            f"{_some(changed)} が取り込み時と異なります。sumika models verify 名前@番号 で箇所を確認してください",
        )  # fmt: skip
    return fine("weights_hashes", "every version is as it was imported", "すべてのバージョンは取り込み時のままです")


def pinned(unknown: Sequence[str]) -> Finding:
    """`unknown`: versions that were pulled from a hub and whose commit nobody recorded."""
    if unknown:
        return warn(
            "weights_revisions", f"which commit {_some(unknown)} came from is not known; pull it again with --revision and deploy that",
            f"{_some(unknown)} の取得元コミットが記録されていません。--revision を付けて取得し直し、配備してください",
        )  # fmt: skip
    return fine(
        "weights_revisions",
        "the commit of every pulled version is known",
        "取得したすべてのバージョンのコミットが記録されています",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
