"""An archive's files, staged as a folder's are: checked on the way, complete before the manifest, nobody's version yet."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

from sumika.models import artifacts
from sumika.models.archive import Opened
from sumika.models.archive_header import bad_archive
from sumika.models.artifacts import MANIFEST, Progress, Staged
from sumika.models.home import sync_folder, write_atomically


def stage(into: Path, source: Opened, progress: Progress | None = None) -> Staged:
    """What `artifacts.stage` does, from an archive and without a second copy; the same files are allowed.

    Raises:
        SumikaError: `bad_archive`, `bad_source`, `disk_full`.
    """
    header = source.header
    folder = into / artifacts._STAGING / secrets.token_hex(8)
    folder.mkdir(mode=0o700, parents=True)
    try:
        artifacts._check_space(into, header.total)
        source.extract(folder, progress)
        if {path.name for path in artifacts._list(folder)} != set(header.entries):
            raise bad_archive("it holds files that no model has", "モデルに不要なファイルがあります")
        manifest = {
            "format": 1,
            "digest": header.digest,
            "files": {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in header.entries.items()},
        }
        sync_folder(folder)
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in artifacts._FULL:
            raise artifacts._disk_full(into, header.total) from error
        raise
    return Staged(folder, header.entries, header.digest)
