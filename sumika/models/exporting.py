"""Take a version out as one signed archive, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sumika.models import archive, archive_header, manifest, registry, wholefile
from sumika.models.archive_header import Header, Listed
from sumika.models.artifacts import Progress
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.store import Store


def export(
    store: Store, home: Home, ref: VersionRef, file: Path, *, force: bool = False, progress: Progress | None = None
) -> Header:
    """Write `ref` to `file`, hashing its files again on the way.

    Raises:
        SumikaError: `not_found`; `exists`; `bad_archive`, for a name that is no archive's; `broken_artifact`, for a
            version whose files are no longer as imported; `disk_full`.
    """
    header, pieces = outgoing(store, home, ref)
    _check_name(file)
    with wholefile.written(file, archive.size(header), force=force) as target:
        done = 0
        for piece in pieces:
            target.write(piece)
            done += len(piece)
            if progress:
                progress(min(done, header.total), header.total)
    return header


def outgoing(store: Store, home: Home, ref: VersionRef) -> tuple[Header, Iterator[bytes]]:
    """What an archive of `ref` begins with, and all of its bytes (`archive.size` of the header), hashed again as they are read.

    Raises:
        SumikaError: `not_found`; `broken_artifact`, also from the bytes.
    """
    with store.read() as connection:
        version = registry.get(connection, ref)
        base = registry.get(connection, version.base) if version.base else None
    folder = home.artifacts / version.folder
    header = _header(version, base, folder)
    return header, _pieces(home, version, folder, header)


def _pieces(home: Home, version: Version, folder: Path, header: Header) -> Iterator[bytes]:
    yield archive.front(home, header)
    for listed in header.files:
        yield from _parts(version, folder, listed)
    yield archive.end()


def _header(version: Version, base: Version | None, folder: Path) -> Header:
    entries = manifest.read(folder)
    found = {path.name for path in folder.iterdir()} - {manifest.MANIFEST}
    if strange := sorted(found ^ set(entries)):
        raise _changed(version, strange[0])
    if manifest.digest_of(entries) != version.digest:
        raise _changed(version, manifest.MANIFEST)
    return archive_header.make_header(
        kind=version.kind,
        name=version.ref.name,
        number=version.ref.number,
        base={"name": base.ref.name, "number": base.ref.number, "digest": base.digest} if base else None,
        gate=version.gate,
        meta=version.meta,
        digest=version.digest,
        files=[{"name": name, "bytes": entry.bytes, "sha256": entry.sha256} for name, entry in sorted(entries.items())],
    )


def _parts(version: Version, folder: Path, listed: Listed) -> Iterator[bytes]:
    try:
        with (folder / listed.name).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != listed.bytes:
                raise _changed(version, listed.name)
            yield from archive.file_parts(listed, stream)
    except (FileNotFoundError, SumikaError):
        raise _changed(version, listed.name) from None


def _check_name(file: Path) -> None:
    if file.suffix != archive.SUFFIX:
        raise SumikaError(
            "bad_archive",
            f"'{quoted(file.name)}' is no name for an archive: it must end in {archive.SUFFIX}, by which 'import' knows it.",
            f"アーカイブの名前は {archive.SUFFIX} で終わる必要があります(「{quoted(file.name)}」)。取り込み時にこれで見分けます。",
        )


def _changed(version: Version, name: str) -> SumikaError:
    return SumikaError(
        "broken_artifact",
        f"{version.ref} is not as it was imported ({quoted(name)} differs) and can't be vouched for. 'sumika models verify {version.ref}' shows what changed; import it again.",
        f"{version.ref} は取り込み時のままではないため({quoted(name)} が異なります)、署名できません。sumika models verify {version.ref} で確認し、取り込み直してください。",
        status=409,
    )
