"""Where things lie on disk under $SUMIKA_HOME; nothing here is ever inside the source tree's tracked files."""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sumika.models.errors import SumikaError

# A Unix socket's path must fit in sun_path: 108 bytes with its NUL (unix(7)).
_SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET_NAME = len("engine-0123456789abcdef.sock")


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of one Sumika's data directory (created 0700: it holds weights, keys and records)."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "sumika.db"

    @property
    def admin_key(self) -> Path:
        return self.root / "admin.key"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def incoming(self) -> Path:
        """Where people put what the console shall import."""
        return self.root / "incoming"

    @property
    def imports(self) -> Path:
        """What the console imported of late, and how far it is."""
        return self.root / "imports"

    @property
    def prices(self) -> Path:
        """The price sheet, where an administrator changed the one in configs/."""
        return self.root / "prices.yaml"

    @property
    def runs(self) -> Path:
        """One folder for each training run."""
        return self.root / "runs"

    @property
    def engines(self) -> Path:
        """What each engine sees of adapters: links to the files of those that it was told to load."""
        return self.root / "engines"

    @property
    def engine_caches(self) -> Path:
        """What engines compile, a folder for each base."""
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def usage(self) -> Path:
        """Journals of what was used, until it is in the store."""
        return self.root / "usage"

    @property
    def files(self) -> Path:
        """What clients uploaded and what batches made."""
        return self.root / "files"

    @property
    def batches(self) -> Path:
        """Answers of batches that run, until their files are made."""
        return self.root / "batches"

    @property
    def checkpoints(self) -> Path:
        """Signed witnesses of the audit log, outside the database that they vouch for."""
        return self.root / "audit.checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Which line of `checkpoints` is the newest, so that one that is cut off there is missed."""
        return self.root / "audit.last"

    @property
    def suspects(self) -> Path:
        """Which requests ran when an engine ended; for the gateway workers, who may lose it."""
        return self.root / "suspects"

    @property
    def login_key(self) -> Path:
        """What seals sign-ins that are under way."""
        return self.root / "login.key"

    @property
    def cache_key(self) -> Path:
        """What salts of the engines' prefix cache are made with; a new one costs cached prompts."""
        return self.root / "cache.key"

    @property
    def sockets(self) -> Path:
        """The 0700 folder of the engines' sockets: under the root, or a short one in the temporary folder
        when the root's path is too long for a socket."""
        inside = self.root / "run"
        if len(os.fsencode(inside)) + 1 + _LONGEST_SOCKET_NAME <= _SOCKET_PATH_LIMIT:
            return inside
        tag = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"sumika-{os.getuid()}-{tag}"

    def hidden(self, text: str) -> str:
        """`text` for whoever is not at this machine: without where the home lies."""
        return text.replace(str(self.root), "$SUMIKA_HOME")

    def create(self) -> None:
        """Make every folder, private to this user.

        Raises:
            SumikaError: `home_denied`, where this user may not; `home_broken`, where something else stands in the way, a link too
                where the socket folder lies outside the home.
        """
        self.check_access()
        folders = (
            self.root, self.artifacts, self.incoming, self.imports, self.runs, self.logs, self.usage, self.files, self.batches, self.engines,
            self.engine_caches, self.sockets,
        )  # fmt: skip
        for folder in folders:
            _make(folder)
        outside = self.sockets.parent != self.root  # where another user may have put a link, which leads to their sockets later
        found = self.sockets.lstat() if outside else self.sockets.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise _in_the_way(self.sockets)
        if found.st_uid != os.getuid():
            raise denied(self.sockets)
        self.sockets.chmod(0o700)

    def check_access(self) -> None:
        """Raises SumikaError `home_denied`, where the root is there and this user may not use it."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if self.root.stat() and not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
                raise denied(self.root)


def denied(path: Path) -> SumikaError:
    """What another user is told of a path that is not theirs."""
    user = _named(os.geteuid())
    try:
        owner = _named(path.stat().st_uid)
    except OSError:
        owner = ""
    if owner in ("", user):
        en, ja = "Change its permissions (chmod)", "アクセス権を変更する(chmod)か"
    else:
        en = f"It belongs to {owner}: run the command as {owner} (sudo -u {owner} …), hand it over (chown)"
        ja = f"所有者は {owner} です。{owner} として実行する(sudo -u {owner} …)か、所有者を変更する(chown)か"
    return SumikaError(
        "home_denied",
        f"{path} can't be used by the user {user}. {en}, or set SUMIKA_HOME to another folder.",
        f"ユーザー {user} は {path} を使用できません。{ja}、SUMIKA_HOME に別のフォルダーを指定してください。",
        status=403,
    )


def _named(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _in_the_way(folder: Path) -> SumikaError:
    return SumikaError(
        "home_broken",
        f"{folder} must be a folder, but a file or a link stands there or above it. Move it away and start again.",
        f"{folder} はフォルダーでなければなりませんが、その位置または上位にファイルかリンクがあります。移動してからやり直してください。",
        status=500,
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError:
        raise denied(next(one for one in folder.parents if one.exists())) from None
    except (FileExistsError, NotADirectoryError):
        raise _in_the_way(folder) from None
    except OSError as error:
        raise SumikaError(
            "home_broken",
            f"{folder} can't be made: {error.strerror}. Mend the disk, or set SUMIKA_HOME to another folder.",
            f"{folder} を作成できません({error.strerror})。ディスクを確認するか、SUMIKA_HOME に別のフォルダーを指定してください。",
            status=500,
        ) from None


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a whole file so that a reader, or a crash, sees the old content or the new: temp, fsync, rename, fsync."""
    fd, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        try:
            os.fchmod(fd, mode)
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temp, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    sync_folder(path.parent)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
