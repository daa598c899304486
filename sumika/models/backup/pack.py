"""The file itself: a plain tar, its manifest with the SHA-256 of each member last. `tar -tvf` lists it.

Without its manifest a file is no backup, so one that was cut off says so; with it, no byte can have changed unseen.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from sumika.models.errors import SumikaError, quoted

MANIFEST = "manifest.json"
_CHUNK = 2**20
_LONGEST_MANIFEST = 256 * 2**20


class Writer:
    """Members one after another; `close` writes the manifest."""

    def __init__(self, target: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT)
        self._listed: dict[str, dict[str, object]] = {}

    def add(self, name: str, data: bytes) -> None:
        self.add_stream(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, path: Path) -> None:
        """As much of `path` as there is now; what is appended meanwhile is not part of it."""
        with path.open("rb") as source:
            self.add_stream(name, source, os.fstat(source.fileno()).st_size)

    def add_stream(self, name: str, source: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        hashing = _Hashing(source)
        self._tar.addfile(info, hashing)
        self._listed[name] = {"bytes": size, "sha256": hashing.digest.hexdigest()}

    def close(self) -> None:
        data = json.dumps({"members": self._listed}, ensure_ascii=False).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size, info.mode = len(data), 0o600
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.close()


class _Hashing(io.RawIOBase):
    """Reads through, and keeps the hash of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


def unpack(file: Path, folder: Path) -> None:
    """Write every member into `folder`, synced. What is there is not to be believed before this returns.

    Raises:
        SumikaError: `bad_backup`, naming the member that is not as it was written, or that the file was cut off.
    """
    seen: dict[str, dict[str, object]] = {}
    with _read(file) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.isreg() else None
            if stream is None or not _safe(info.name) or info.name in seen:
                raise bad(
                    f"{quoted(info.name)} has no place in a backup",
                    f"{quoted(info.name)} はバックアップに含まれるはずのない項目です",
                )
            if info.name == MANIFEST:
                _check(stream.read(_LONGEST_MANIFEST), seen)
                return
            seen[info.name] = _write(stream, folder / info.name)
    raise bad("it was cut off before its end", "ファイルが途中で切れています")


def _check(data: bytes, seen: dict[str, dict[str, object]]) -> None:
    try:
        listed = json.loads(data)["members"]
    except (ValueError, TypeError, KeyError):
        raise bad("its manifest can't be read", "マニフェストを読み取れません") from None
    for name in sorted(seen.keys() | listed.keys()):
        if seen.get(name) != listed.get(name):
            raise bad(f"{quoted(name)} is not as it was written", f"{quoted(name)} が書き込み時と一致しません")


def _write(stream: IO[bytes], path: Path) -> dict[str, object]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as target:
        os.fchmod(target.fileno(), 0o600)
        while data := stream.read(_CHUNK):
            digest.update(data)
            size += target.write(data)
        target.flush()
        os.fsync(target.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and str(path) == name


@contextmanager
def _read(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, mode="r|") as tar:
            yield tar
    except (tarfile.TarError, EOFError):
        raise bad("it is no tar, or was cut off", "tar形式ではないか、途中で切れています") from None
    except FileNotFoundError:
        raise SumikaError("not_found", f"There is no file {file}.", f"{file} がありません。", status=404) from None


def bad(en: str, ja: str) -> SumikaError:
    return SumikaError(
        "bad_backup", f"This backup can't be used: {en}. Copy it again from where it was made, or take another; nothing was changed here.",
        f"このバックアップは使用できません: {ja}。作成元からコピーし直すか、別のバックアップを使ってください。何も変更していません。",
    )  # fmt: skip
