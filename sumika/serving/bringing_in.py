"""Imports that the admin API began: each a process of `sumika models receive`, which says how far it is on its output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from sumika.models import clock
from sumika.models.actor import Actor
from sumika.models.errors import SumikaError, not_found
from sumika.models.home import Home
from sumika.models.names import check_name

_COMMAND = (sys.executable, "-m", "sumika.cli.main", "models", "receive")
_KEPT = 20


@dataclass(slots=True)
class Import:
    """`done` of `total` bytes are copied. `error`: why it failed, in both languages."""

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
    """Of one gateway worker, one at a time. One whose gateway ends goes on and is whole or not there, as every import is."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: deque[Import] = deque(maxlen=_KEPT)
        self._task: asyncio.Task[None] | None = None

    def list_all(self) -> list[Import]:
        return list(self._known)

    def sources(self) -> list[str]:
        """What lies in the folder."""
        folder = self._home.incoming
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []

    async def begin(self, source: str, name: str, base: str | None, by: Actor) -> Import:
        """Raises SumikaError `bad_name`; `not_found`, for the source; `import_running` (409)."""
        check_name(name)
        if source not in self.sources():
            folder = str(self._home.incoming.name)
            raise not_found(
                "file or folder", "ファイルまたはフォルダー", source,
                f"Put it into the folder '{folder}' of the server's data directory.",
                f"サーバーのデータフォルダーの「{folder}」に置いてください。",
            )  # fmt: skip
        if self._task is not None and not self._task.done():
            raise SumikaError(
                "import_running",
                f"'{self._known[0].source}' is being imported. Wait for its end.",
                f"「{self._known[0].source}」を取り込み中です。終わるのを待ってください。",
                status=409,
            )
        one = Import(source, name, by.name, clock.now())
        self._known.appendleft(one)
        asked = {"path": str(self._home.incoming / source), "name": name, "base": base, "by": [by.name, by.role]}
        self._task = asyncio.create_task(_follow(one, asked))
        return one


async def _follow(one: Import, asked: dict[str, Any]) -> None:
    child = await asyncio.create_subprocess_exec(
        *_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None  # noqa: S101 - both are pipes
    child.stdin.write(json.dumps(asked).encode())
    child.stdin.close()
    told: dict[str, Any] = {}
    async for line in child.stdout:
        told = json.loads(line)
        one.done, one.total = told.get("done", one.done), told.get("total", one.total)
    await child.wait()
    one.version, one.error = told.get("version"), told.get("error")
    one.state = "done" if one.version else "failed"
    if not one.version and one.error is None:
        one.error = {
            "en": f"The import ended without a word (status {child.returncode}). Run 'sumika models import' on the server to see why.",
            "ja": f"取り込みが異常終了しました(状態 {child.returncode})。サーバーで sumika models import を実行して原因を確認してください。",
        }
