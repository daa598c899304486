"""`sumika supervise` on a machine whose GPU memory is what fake engines write beside their sockets: one card of 80 GiB.

What main memory is free stands in `host_free` there, bytes; it decides how deep engines sleep.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from sumika.models.bootstrap import open_store
from sumika.models.settings import load_settings
from sumika.serving import supervisor_role
from sumika.serving.memory import Pool
from sumika.serving.process import ProcessId

TOTAL = 80 * 2**30


class FakeCard:
    """One GPU that holds what the fakes say."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets

    def pools(self) -> list[Pool]:
        alive = [file for file in self._sockets.glob("*.memory") if file.with_suffix(".sock").exists()]
        return [Pool(0, "GPU-fake", TOTAL, TOTAL - sum(int(file.read_text() or 0) for file in alive))]

    def host_free(self) -> int:
        return int((self._sockets / "host_free").read_text())

    def taken(self, pool: Pool, engine: ProcessId) -> int | None:
        return None


def main() -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    settings = load_settings()
    asyncio.run(supervisor_role.supervise(settings, open_store(settings), None, lambda _: FakeCard(settings.layout.sockets)))


if __name__ == "__main__":
    main()
