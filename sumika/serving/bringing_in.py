"""Starting what the admin API is asked to import: a process of `sumika models receive`, which keeps the record of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from sumika.models.actor import Actor
from sumika.models.errors import not_found
from sumika.models.home import Home
from sumika.models.imports import Import, Imports
from sumika.models.names import check_name

_COMMAND = (sys.executable, "-m", "sumika.cli.main", "models", "receive")


class BringingIn:
    """One whose gateway ends goes on and is whole or not there, as every import is."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._imports = Imports(home)
        self._ends: set[asyncio.Task[int]] = set()

    def list_all(self) -> list[Import]:
        return self._imports.list_all()

    def sources(self) -> list[str]:
        """What lies in the folder; a link is not followed out of it."""
        folder = self._home.incoming
        there = folder.iterdir() if folder.is_dir() else ()
        return sorted(path.name for path in there if not path.name.startswith(".") and not path.is_symlink())

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
        one, lock = self._imports.begin(source, name, by.name)
        try:
            asked = {
                "record": one.id,
                "path": str(self._home.incoming / source),
                "base": base,
                "role": by.role,
                "source": by.source,
                "lock": lock,
            }
            await self._start(asked, lock)
        finally:
            os.close(lock)
        return one

    async def _start(self, asked: dict[str, str | int | None], lock: int) -> None:
        """The child inherits `lock` and so holds it until it ends, however it ends."""
        child = await asyncio.create_subprocess_exec(
            *_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
        assert child.stdin is not None  # noqa: S101 - it is a pipe
        child.stdin.write(json.dumps(asked).encode())
        child.stdin.close()
        end = asyncio.create_task(child.wait())
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
