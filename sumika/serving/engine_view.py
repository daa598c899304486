"""What one engine sees of this machine: its base, the adapters that it was told to load, its socket's folder and its base's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from sumika.models.home import Home
from sumika.models.registry import Version
from sumika.models.sandbox import View


class EngineView:
    """The folders of the engine `engine_id`, made when it starts; `remove` takes away those that are its alone."""

    def __init__(self, home: Home, engine_id: str, base: Version) -> None:
        self._home = home
        self._base = home.artifacts / base.folder
        self._temp = Path(tempfile.gettempdir()) / f"sumika-engine-{os.getuid()}-{engine_id}"
        self.cache = home.engine_caches / str(base.ref)
        # Files of adapters by their versions' names: links, so that they stay there while an engine may read them again.
        self.adapters = home.engines / engine_id

    def make(self, *, network: bool) -> View:
        """Raises OSError, also where somebody else made the temporary folder."""
        shutil.rmtree(self._temp, ignore_errors=True)
        self._temp.mkdir(mode=0o700)
        for folder in (self.adapters, self.cache):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = self._home
        return View(home.root, self._temp, (self._base, self.adapters), (home.sockets, self.cache), network=network)

    def remove(self) -> None:
        for folder in (self._temp, self.adapters):
            shutil.rmtree(folder, ignore_errors=True)


def sweep(home: Home, engine_ids: Collection[str]) -> None:
    """Remove what engines that nobody knows any more left."""
    for folder in home.engines.glob("*"):
        if folder.name not in engine_ids:
            shutil.rmtree(folder, ignore_errors=True)
