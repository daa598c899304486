"""The file itself: a plain tar, then its manifest with the SHA-256 of each member, then the manifest's signature. `tar -tvf` lists it.

Without its manifest a file is no backup, so one that was cut off says so. The manifest says of every byte what it was, and the signature who made it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sumika.models import signing
from sumika.models.errors import SumikaError, quoted

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_CHUNK = 2**20
_LONGEST_MANIFEST = 256 * 2**20


class Writer:
    """Members one after another; `close` writes the manifest, and what `sign` makes of it."""

    def __init__(self, target: IO[bytes], sign: Callable[[bytes], bytes]) -> None:
        self._sign = sign
        self._tar = tarfile.open(fileobj=_Onward(target), mode="w", format=tarfile.PAX_FORMAT)
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
        for name, content in ((MANIFEST, data), (SIGNATURE, self._sign(data))):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            self._tar.addfile(info, io.BytesIO(content))
        self._tar.close()


class _Onward(io.RawIOBase):
    """Writes through, to a pipe too: `tarfile` asks where it stands. (Its own mode for pipes writes once more when it is thrown away.)"""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._at = 0

    def write(self, data: Any) -> int:
        self._target.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


class _Hashing(io.RawIOBase):
    """Reads through, and keeps the hash of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


def unpack(source: IO[bytes], folder: Path) -> Ed25519PublicKey | None:
    """Write every member into `folder`, synced; who signed it, None where nobody did. What is there is not to be believed before this returns.

    Raises:
        SumikaError: `bad_backup`, naming the member that is not as it was written, or that the file was cut off.
    """
    seen: dict[str, dict[str, object]] = {}
    manifest = signature = None
    with _read(source) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.isreg() else None
            is_late = manifest is not None and (info.name != SIGNATURE or signature is not None)
            if stream is None or not _safe(info.name) or info.name in seen or is_late:
                raise bad(
                    f"{quoted(info.name)} has no place in a backup",
                    f"{quoted(info.name)} はバックアップに含まれるはずのない項目です",
                )
            if manifest is not None:
                signature = stream.read(signing.SIGNATURE_BYTES + 1)
            elif info.name == MANIFEST:
                manifest = stream.read(_LONGEST_MANIFEST)
                _check(manifest, seen)  # and the signature comes next
            else:
                seen[info.name] = _write(stream, folder / info.name)
    if manifest is None:
        raise bad("it was cut off before its end", "ファイルが途中で切れています")
    return None if signature is None else _signer(manifest, signature)


def _signer(manifest: bytes, signature: bytes) -> Ed25519PublicKey:
    key = signing.signer(manifest, signature, signing.BACKUP)
    if key is None:
        raise bad("its signature does not fit its manifest", "署名がマニフェストと一致しません")
    return key


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
def _read(source: IO[bytes]) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=source, mode="r|") as tar:
            yield tar
    except (tarfile.TarError, EOFError):
        raise bad("it is no tar, or was cut off", "tar形式ではないか、途中で切れています") from None


def bad(en: str, ja: str) -> SumikaError:
    return SumikaError(
        "bad_backup", f"This backup can't be used: {en}. Copy it again from where it was made, or take another; nothing was changed here.",
        f"このバックアップは使用できません: {ja}。作成元からコピーし直すか、別のバックアップを使ってください。何も変更していません。",
    )  # fmt: skip
