"""Copies of the data that a job from the network names: uploads of its sender, and files below the folder of the sender's team.

A copy is made through descriptors that no link and no `..` was followed for, so nothing that is renamed or linked meanwhile
leads elsewhere. Whatever may not be read is answered as what is not there.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sumika.finetune.data.files import KINDS, MOST_FILES, is_beside
from sumika.finetune.data.inputs import Inputs
from sumika.models import files, teams
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.principals import Principal, Sensitivity
from sumika.models.shelf import RESERVE_BYTES, Shelf
from sumika.models.store import Store

FOLDER = "inputs"
# Of one job: it is copied and read while somebody waits. More is for the command line.
MOST_BYTES = 4 * 2**30
_DEEPEST = 32
_UPLOAD = re.compile(r"file-[0-9a-f]{24}")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class NotThere(Exception):
    """Nothing that the sender may read; whether there is anything else is not told."""


class Staging:
    """`team_folders`: the folder that holds one for each team; None: uploads alone. `sensitivities`: of the uploads copied."""

    def __init__(self, store: Store, home: Home, team_folders: Path | None, who: Principal) -> None:
        self._store, self._home, self._team_folders = store, home, team_folders
        self.who = who
        self.sensitivities: list[Sensitivity] = []
        self._left = MOST_BYTES

    def stage(self, names: Mapping[str, Path], run: Path) -> tuple[Inputs, list[str]]:
        """Copy into `run` what each key of a job names; and the keys that name nothing the sender may read.

        Raises:
            SumikaError: `too_much_data` (413); `disk_full` (507); `wrong_purpose`.
        """
        (run / FOLDER).mkdir(mode=0o700)
        copies: dict[Path, Path] = {}
        missing = []
        for key, name in names.items():
            if name in copies:
                continue
            folder = run / FOLDER / str(len(copies))
            folder.mkdir(mode=0o700)
            try:
                copies[name] = self._copied(name, folder)
            except NotThere:
                missing.append(key)
                shutil.rmtree(folder)
        return Inputs(copies, from_network=True), missing

    def _copied(self, name: Path, folder: Path) -> Path:
        if _UPLOAD.fullmatch(str(name)):
            return self._upload(str(name), folder)
        with self._team_file(name) as fd:
            target = folder / (name.name or "data")
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                self._copy_folder(fd, target)
            else:
                self._copy(fd, target)
        return target

    def _upload(self, file_id: str, folder: Path) -> Path:
        """One file that the sender's team uploaded. Who may read it is decided here alone."""
        try:
            with self._store.read() as connection:
                file = files.get(connection, self.who, file_id)
            if file.purpose != "fine-tune":
                raise SumikaError(
                    "wrong_purpose", f"{file.id} was uploaded for '{file.purpose}'; upload it with purpose 'fine-tune'.",
                    f"{file.id} の purpose は「{file.purpose}」です。purpose を fine-tune にしてアップロードしてください。",
                )  # fmt: skip
            fd = os.open(Shelf(self._home.files).path(file.id), _FLAGS)
        except FileNotFoundError:
            raise NotThere from None
        except SumikaError as error:
            if error.code == "not_found":
                raise NotThere from None
            raise
        self.sensitivities.append(file.sensitivity)
        suffix = Path(file.name).suffix.lower()
        target = folder / f"{file.id}{suffix if suffix in KINDS else '.jsonl'}"
        try:
            self._copy(fd, target)
        finally:
            os.close(fd)
        return target

    @contextmanager
    def _team_file(self, name: Path) -> Iterator[int]:
        """A descriptor of what lies at `name` in the team's folder: a regular file or a folder."""
        team, parts = self._team_folder(), PurePosixPath(name).parts
        if (
            self._team_folders is None
            or team is None
            or PurePosixPath(team).parts != (team,)
            or name.is_absolute()
            or ".." in (team, *parts)
            or len(parts) > _DEEPEST
        ):
            raise NotThere
        try:
            fd = os.open(self._team_folders, _FLAGS | os.O_DIRECTORY)
        except OSError:
            raise NotThere from None
        try:
            self._refuse_home(fd)
            for part in (team, *parts):
                inner = self._opened(part, fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _team_folder(self) -> str | None:
        if self._team_folders is None or self.who.team is None or self.who.team_id is None:
            return None
        with self._store.read() as connection:
            return teams.folder(connection, self.who.team, self.who.team_id)

    def _opened(self, part: str, folder: int) -> int:
        try:
            fd = os.open(part, _FLAGS, dir_fd=folder)
        except (OSError, ValueError):  # ValueError: a NUL
            raise NotThere from None
        try:
            self._refuse_special(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _refuse_special(self, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            self._refuse_home(fd)
        elif not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:  # another name of a file may be anybody's
            raise NotThere

    def _refuse_home(self, fd: int) -> None:
        """However it came to lie there: $SUMIKA_HOME holds keys and every team's files."""
        if os.path.samestat(os.fstat(fd), self._home.root.stat()):
            raise NotThere

    def _copy_folder(self, fd: int, target: Path, depth: int = 0, count: int = 0) -> int:
        """Its data files, and an empty file for each of another kind, which is refused by its name later. How many so far."""
        target.mkdir(mode=0o700)
        for name in sorted(os.listdir(fd)):
            if is_beside(Path(name)):
                continue
            count += 1
            if count > MOST_FILES or depth > _DEEPEST:
                raise _too_much()
            entry = self._opened(name, fd)
            try:
                if stat.S_ISDIR(os.fstat(entry).st_mode):
                    count = self._copy_folder(entry, target / name, depth + 1, count)
                elif Path(name).suffix.lower() in KINDS:
                    self._copy(entry, target / name)
                else:
                    (target / name).touch(mode=0o600)
            finally:
                os.close(entry)
        return count

    def _copy(self, fd: int, target: Path) -> None:
        size = os.fstat(fd).st_size
        self._left -= size
        if self._left < 0:
            raise _too_much()
        if shutil.disk_usage(target.parent).free < size + RESERVE_BYTES:
            raise _disk_full()
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(copy, "wb") as written, os.fdopen(os.dup(fd), "rb") as read:
            while size > 0 and (piece := read.read(min(size, 2**20))):  # what is appended meanwhile was not counted
                size -= len(piece)
                written.write(piece)


def _too_much() -> SumikaError:
    return SumikaError(
        "too_much_data",
        f"The job names more than {MOST_BYTES // 2**30} GiB or {MOST_FILES:,} files; name less, or have it submitted on the server.",
        f"データが {MOST_BYTES // 2**30} GiB または {MOST_FILES:,} ファイルを超えています。減らすか、サーバー上で登録してください。",
        status=413,
    )


def _disk_full() -> SumikaError:
    return SumikaError(
        "disk_full",
        "The server's disk has no space for a copy of the job's data; tell your administrator.",
        "サーバーのディスクに、ジョブのデータを複写する空きがありません。管理者に連絡してください。",
        status=507,
    )
