"""Imports that were asked for at the console: a small file each in the home, so that every gateway worker tells of them."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from sumika.models import clock, locks
from sumika.models.errors import SumikaError
from sumika.models.home import Home, write_atomically

_KEPT = 20
_DIED = {
    "en": "The import ended without a word. Run 'sumika models import' on the server to see why.",
    "ja": "取り込みが異常終了しました。サーバーで sumika models import を実行して原因を確認してください。",
}


@dataclass(frozen=True, slots=True)
class Import:
    """`done` of `total` bytes are copied. `error`: why it failed, in both languages. `id` sorts by when it was asked."""

    id: str
    source: str
    name: str
    actor: str
    asked_at: str
    state: Literal["running", "done", "failed"] = "running"
    done: int = 0
    total: int = 0
    version: str | None = None
    error: dict[str, str] | None = None


class Imports:
    """One at a time for a home: whoever runs one holds the lock, and the kernel tells when they died."""

    def __init__(self, home: Home) -> None:
        self._folder = home.imports
        self._lock = home.imports / ".lock"

    def list_all(self) -> list[Import]:
        """The last ones, newest first."""
        found = [self._read(path) for path in self._files()[:_KEPT]]
        if any(one.state == "running" for one in found):
            with locks.held(self._lock, wait=False) as nobody:
                if nobody:
                    found = [self._ended(one) if one.state == "running" else one for one in found]
        return found

    def begin(self, source: str, name: str, actor: str) -> tuple[Import, int]:
        """A new one, and a file descriptor that holds the lock: pass it to the process that does the work and close it.

        Raises:
            SumikaError: `import_running` (409).
        """
        running = next((one for one in self.list_all() if one.state == "running"), None)
        lock = None if running else locks.taken(self._lock)
        if lock is None:
            other = running.source if running else source
            raise SumikaError(
                "import_running",
                f"'{other}' is being imported. Wait for its end.",
                f"「{other}」を取り込み中です。終わるのを待ってください。",
                status=409,
            )
        now = clock.now()
        one = Import(f"{now.replace(':', '')}-{secrets.token_hex(4)}", source, name, actor, now)
        self.keep(one)
        for path in self._files()[_KEPT:]:
            path.unlink(missing_ok=True)
        return one, lock

    def keep(self, one: Import) -> None:
        write_atomically(self._folder / f"{one.id}.json", json.dumps(asdict(one), ensure_ascii=False).encode(), mode=0o600)

    def get(self, import_id: str) -> Import:
        return self._read(self._folder / f"{import_id}.json")

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"), reverse=True)

    def _read(self, path: Path) -> Import:
        return Import(**json.loads(path.read_bytes()))

    def _ended(self, one: Import) -> Import:
        """As it stands now that nobody works on it."""
        last = self.get(one.id)
        if last.state == "running":
            last = replace(last, state="failed", error=_DIED)
            self.keep(last)
        return last
