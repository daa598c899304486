"""Model files on disk: copied in, checked, hashed; the manifest is written last and so marks a folder as complete.

A folder becomes a version only by a row of the registry that names it; whatever no row names is swept away.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sumika.models import locks, manifest, pooling
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import sync_folder
from sumika.models.manifest import MANIFEST, FileEntry, Hasher

_ALLOWED_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".md"})
_ALLOWED_NAMES = frozenset({"LICENSE", "NOTICE", "LICENCE"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy", ".npz"})
_PIECE = 8 * 2**20
# Left free for the database and its log.
_RESERVE = 64 * 2**20
_STAGING = ".staging"
_LOCK = ".lock"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) as a long copy goes on."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Files copied in and complete, but not yet anybody's version. `digest` depends on names and contents alone."""

    folder: Path
    files: dict[str, FileEntry]
    digest: str

    def discard(self) -> None:
        """Remove what was staged; nothing is left to remove once it settled."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def home_in(self, name: str) -> str:
        """Where `settle` puts the files, relative to the artifacts folder; the registry's row names this."""
        return f"{name}/{self.folder.name}"

    def settle(self, artifacts: Path, name: str) -> None:
        target = artifacts / self.home_in(name)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(self.folder, target)
        sync_folder(target.parent)
        sync_folder(artifacts)


def stage(artifacts: Path, source: Path, progress: Progress | None = None) -> Staged:
    """Copy `source` into a staging folder of `artifacts`, hashing as it goes, and write the manifest last.

    Raises:
        SumikaError: `bad_source` as `list_files`; `disk_full`.
    """
    files = list_files(source)
    total = sum(path.stat().st_size for path in files)

    def fill(folder: Path) -> dict[str, FileEntry]:
        entries, done = {}, 0
        opened = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in files:
                base = done
                entry = _copy(opened, path, folder / path.name, lambda n, base=base: progress and progress(base + n, total))  # type: ignore[misc]
                entries[path.name] = entry
                done += entry.bytes
        finally:
            os.close(opened)
        return entries

    return stage_with(artifacts, total, fill)


def stage_with(artifacts: Path, total: int, fill: Callable[[Path], dict[str, FileEntry]]) -> Staged:
    """Have `fill` write files of `total` bytes, synced, into a staging folder; the manifest makes it complete.

    Raises:
        SumikaError: `disk_full`, and what `fill` raises; nothing is left behind then.
    """
    folder = artifacts / _STAGING / secrets.token_hex(8)
    folder.mkdir(mode=0o700, parents=True)
    try:
        _check_space(artifacts, total)
        entries = fill(folder)
        sync_folder(folder)
        manifest.write(folder, entries)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _disk_full(artifacts, total) from error
        raise
    return Staged(folder, entries, manifest.digest_of(entries))


def add_file(staged: Staged, name: str) -> Staged:
    """Take a file that was written into the staging folder since into the manifest, which is replaced in one step."""
    hasher = Hasher()
    with (staged.folder / name).open("rb") as file:
        hasher.update(file.read())
        os.fsync(file.fileno())
    files = staged.files | {name: hasher.entry()}
    manifest.write(staged.folder, files)
    return Staged(staged.folder, files, manifest.digest_of(files))


def bringing_in(artifacts: Path) -> AbstractContextManager[bool]:
    """Held from `stage` to the row that names the folder, so that no sweep takes the files of a living import."""
    return locks.held(artifacts / _LOCK, shared=True)


def sweep(artifacts: Path, named: Callable[[], set[str]]) -> list[str]:
    """Remove staging leftovers and folders that no row names (an import cut short); the names of what went.

    Does nothing while an import runs; the next start sweeps again. `named` is asked once no import can run.
    """
    gone = []
    with locks.held(artifacts / _LOCK, wait=False) as alone:
        keep = named() if alone else None
        for folder in sorted(artifacts.glob("*/*")):
            relative = folder.relative_to(artifacts).as_posix()
            if keep is not None and folder.is_dir() and relative not in keep:
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(relative)
    return gone


def list_files(source: Path) -> list[Path]:
    """The files of a model's folder, if they are all of the kinds that a model needs.

    Raises:
        SumikaError: `bad_source` for a missing folder, a link that does not lead to a file beside it, pickled weights, code or a file
            of an unknown kind.
    """
    if not source.is_dir():
        raise _bad_source(
            f"'{quoted(str(source))}' is not a folder; give the folder that holds the model's files.",
            f"「{quoted(str(source))}」はフォルダーではありません。モデルのファイルがあるフォルダーを指定してください。",
        )
    files = []
    for path in sorted(source.iterdir()):
        name = quoted(path.name)
        if path.name.startswith(".") or path.name == MANIFEST or (_is_folder(path) and pooling.ASIDE.fullmatch(path.name)):
            continue
        if not path.name.isprintable():
            raise _bad_source(
                f"'{name}' has characters in its name that can't be shown; rename it and import again.",
                f"「{name}」の名前に表示できない文字があります。名前を変えてから取り込み直してください。",
            )
        if _real(path).is_symlink():
            raise _leads_away(name)
        if _is_folder(path):
            raise _bad_source(
                f"'{name}' is a folder; a model's files lie side by side in one. Move it away and import again.",
                f"「{name}」はフォルダーです。モデルのファイルは1つのフォルダーに並べてください。",
            )
        if path.suffix in _PICKLES:
            raise _bad_source(
                f"'{name}' holds pickled data, which can run code when it is opened. Use safetensors and leave it out.",
                f"「{name}」はpickle形式で、開くだけでコードが実行されるおそれがあります。safetensors形式を使い、取り除いてください。",
            )
        if not stat.S_ISREG(_real(path).lstat().st_mode) or (
            path.suffix not in _ALLOWED_SUFFIXES and path.name not in _ALLOWED_NAMES
        ):
            raise _bad_source(
                f"'{name}' is no file a model needs (allowed: {', '.join(sorted(_ALLOWED_SUFFIXES))}). Take it out and import again.",
                f"「{name}」はモデルに必要な種類のファイルではありません(可: {', '.join(sorted(_ALLOWED_SUFFIXES))})。取り除いてください。",
            )
        files.append(path)
    return files


def _copy(folder: int, source: Path, target: Path, progress: Callable[[int], object]) -> FileEntry:
    """Copy `source` of the open `folder`, hashing it in the same read; `target` is synced.

    Whatever was put in its place since it was looked at is not followed: what is opened is looked at again.
    """
    with os.fdopen(_opened(folder, source), "rb") as reader, target.open("xb") as writer:
        hasher = Hasher()
        while piece := reader.read(_PIECE):
            hasher.update(piece)
            writer.write(piece)
            progress(hasher.bytes)
        writer.flush()
        os.fsync(writer.fileno())
    return hasher.entry()


def _opened(folder: int, path: Path) -> int:
    """Raises SumikaError `bad_source`."""
    name = quoted(path.name)
    try:
        fd = os.open(_real(path).name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _leads_away(name) from None
        raise _bad_source(
            f"'{name}' can't be read ({error.strerror}). See that this user may read it, and import again.",
            f"「{name}」を読めません({error.strerror})。読み取り権限を確認して取り込み直してください。",
        ) from error
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return fd
    os.close(fd)
    if stat.S_ISREG(status.st_mode):
        raise _bad_source(
            f"'{name}' has {status.st_nlink} names (hard links), so that it could be changed under another. Copy the folder (cp -r) and import the copy.",
            f"「{name}」には別名(ハードリンク)があり、別の場所から変更されるおそれがあります。フォルダーをコピー(cp -r)してから取り込んでください。",
        )
    raise _bad_source(
        f"'{name}' is no regular file. Take it out and import again.",
        f"「{name}」は通常のファイルではありません。取り除いてから取り込み直してください。",
    )


def _real(path: Path) -> Path:
    """The file beside `path` that it leads to, where it is a link to one; else itself."""
    if not path.is_symlink():
        return path
    target = (
        path.with_name(name) if (name := os.readlink(path)) == os.path.basename(name) and name not in (".", "..", "") else path
    )
    return path if target.is_symlink() or not target.exists() else target


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _leads_away(name: str) -> SumikaError:
    return _bad_source(
        f"'{name}' is a link that leads out of the folder or to no file; put the file itself there.",
        f"「{name}」はフォルダーの外を指すか、指す先のファイルがないリンクです。実際のファイルを置いてください。",
    )


def _check_space(artifacts: Path, needed: int) -> None:
    if shutil.disk_usage(artifacts).free < needed + _RESERVE:
        raise _disk_full(artifacts, needed)


def _disk_full(artifacts: Path, needed: int) -> SumikaError:
    free, reserve = _size(shutil.disk_usage(artifacts).free), _size(_RESERVE)
    return SumikaError(
        "disk_full",
        f"{_size(needed)} are needed under {artifacts} and {reserve} beside them, and {free} are free. Make room, or set SUMIKA_HOME to another disk.",
        f"{artifacts} に {_size(needed)} と予備の {reserve} が必要ですが、空きは {free} です。空きを作るか、SUMIKA_HOME を別のディスクにしてください。",
        status=507,
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _bad_source(en: str, ja: str) -> SumikaError:
    return SumikaError("bad_source", en, ja)
