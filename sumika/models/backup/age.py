"""Encryption to whoever shall be able to restore: the age format (age-encryption.org/v1, X25519 and ChaCha20-Poly1305 in chunks of 64 KiB, each
and the last one authenticated), so that age's own programs read it too. Bounded memory, whatever the size.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyrage
from pyrage import x25519

from sumika.models.errors import SumikaError, quoted
from sumika.models.home import write_atomically

MAGIC = b"age-encryption.org/v1"
_CHUNK = 2**20
_LONGEST_FILE = 64 * 1024
_ENDING_S = 10.0


def keygen(file: Path) -> str:
    """Make an identity in `file` (0600), as age-keygen does; the public key that backups are encrypted to.

    Raises:
        SumikaError: `exists`; OSError: where it can't be written.
    """
    if os.path.lexists(file):
        raise SumikaError(
            "exists",
            f"'{quoted(str(file))}' is already there, and a key is never replaced: backups encrypted to it would be lost. Choose another name.",
            f"「{quoted(str(file))}」はすでにあります。鍵を上書きすると過去のバックアップを復元できなくなるため、別の名前にしてください。",
            status=409,
        )
    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    write_atomically(file, f"# public key: {public}\n{identity}\n".encode(), mode=0o600)
    return public


def check_recipient(text: str) -> None:
    """Raises SumikaError `bad_recipient`."""
    try:
        x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise SumikaError(
            "bad_recipient",
            f"'{quoted(text, 80)}' is no public key of age. 'sumika backup keygen FILE' prints one, 'age1…'.",
            f"「{quoted(text, 80)}」はageの公開鍵ではありません。sumika backup keygen FILE が表示する「age1…」を指定してください。",
            param="recipients",
        ) from None


@contextmanager
def encrypted(target: IO[bytes], recipients: Sequence[str]) -> Iterator[IO[bytes]]:
    """What is written to the yielded file goes to `target`, encrypted; its end is there when the context has ended.

    Raises:
        SumikaError: `bad_recipient`; OSError: what `target` raises.
    """
    for one in recipients:
        check_recipient(one)
    keys = [x25519.Recipient.from_str(one) for one in recipients]
    out, (source, sink) = _Keeping(target.write), os.pipe()

    def work() -> None:
        with os.fdopen(source, "rb") as plain, suppress(pyrage.EncryptError, OSError):  # `out` keeps what went wrong
            pyrage.encrypt_io(plain, out, keys)
            out.done = True

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        with os.fdopen(sink, "wb", buffering=_CHUNK) as plain:
            yield plain
    except BrokenPipeError:
        thread.join()
        raise out.error or OSError("the encryption ended early") from None
    thread.join()
    if not out.done:
        raise out.error or OSError("the encryption ended early")


@contextmanager
def decrypted(source: IO[bytes], identity: Path | None) -> Iterator[IO[bytes]]:
    """What `source` says, as the holder of the identity in `identity` reads it. What was read is not to be believed before the context ended.

    Raises:
        SumikaError: `encrypted`, without an identity; `bad_identity`; `wrong_identity`; `bad_backup`, for what is cut off or changed.
    """
    keys = identities(identity)
    into, sink = os.pipe()
    out, failed = _Keeping(lambda data: _write_all(sink, data)), list[Exception]()

    def work() -> None:
        try:
            pyrage.decrypt_io(source, out, keys)
        except (pyrage.DecryptError, OSError) as error:
            failed.append(error)
        finally:
            os.close(sink)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with os.fdopen(into, "rb") as plain:
        try:
            yield plain
            while plain.read(_CHUNK):
                pass
        except SumikaError:
            plain.close()
            thread.join(_ENDING_S)  # of two reasons the first is told; a source that is silent is not waited for
            if failed and out.error is None:
                raise _failure(failed[0]) from None
            raise
    thread.join()
    if failed:
        raise _failure(failed[0])


def identities(file: Path | None) -> list[Any]:
    """Raises SumikaError `encrypted`, `bad_identity`."""
    if file is None:
        raise SumikaError(
            "encrypted",
            "This backup is encrypted. Name the file of a private key that it was encrypted to: --identity FILE.",
            "このバックアップは暗号化されています。対応する秘密鍵のファイルを --identity FILE で指定してください。",
        )
    try:
        with file.open("rb") as stream:
            lines = stream.read(_LONGEST_FILE).decode("ascii", "replace").splitlines()
        found = [x25519.Identity.from_str(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    except (OSError, pyrage.IdentityError):
        found = []
    if not found:
        raise SumikaError(
            "bad_identity",
            f"'{quoted(str(file))}' holds no identity of age, AGE-SECRET-KEY-1…, as 'sumika backup keygen FILE' writes it.",
            f"「{quoted(str(file))}」はageの秘密鍵(AGE-SECRET-KEY-1…)のファイルではありません。sumika backup keygen FILE で作成したものを指定してください。",
        )
    return found


class _Keeping:
    """A file to write to, which keeps what went wrong: age's library tells of it in its own words."""

    def __init__(self, write: Callable[[bytes], int | None]) -> None:
        self._write = write
        self.error: OSError | None = None
        self.done = False

    def write(self, data: bytes) -> int:
        try:
            self._write(data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Whoever owns the file does."""


def _write_all(fd: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)


def _failure(error: Exception) -> SumikaError:
    if "No matching keys" in str(error):
        return SumikaError(
            "wrong_identity",
            "This backup is encrypted to another key than the one that was given; nothing was changed here. Take the identity whose public key stood in backup.recipients when it was made.",
            "このバックアップは指定された鍵では復号できません(何も変更していません)。作成時に backup.recipients に設定されていた公開鍵に対応する秘密鍵を使ってください。",
        )
    return SumikaError(
        "bad_backup",
        "This backup can't be used: it was cut off, or changed after it was encrypted. Copy it again from where it was made, or take another; nothing was changed here.",
        "このバックアップは使用できません: 途中で切れているか、暗号化後に変更されています。作成元からコピーし直すか、別のバックアップを使ってください。何も変更していません。",
    )
