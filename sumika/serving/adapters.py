"""The adapters of one engine: loads what is wanted, proves it, unloads what nobody uses any more."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sumika.models import canary
from sumika.models.canary import Verdict
from sumika.models.errors import SumikaError
from sumika.models.integrity import Integrity
from sumika.models.registry import Version
from sumika.serving import engine_client
from sumika.serving.engine_client import EngineClient

log = logging.getLogger(__name__)

_RETRY_S = 10.0
# What is wrong with an adapter; anything else is the engine's trouble.
_REFUSALS = ("adapter_refused", "canary_base", "canary_differs", "canary_failed", "broken_artifact")


class Adapters:
    """`wanted` and `may_unload` are the supervisor's to set; `held` are those that are loaded and were not found wanting.

    Before a load its files are hashed: the engine sees links to those that were found right, in `seen`. Every load is followed by
    the canary proof: vLLM answers 200 for an adapter that it then ignores.
    """

    def __init__(self, artifacts: Path, seen: Path) -> None:
        self._artifacts, self._seen = artifacts, seen
        self._proven: dict[str, Verdict] = {}
        self._retry_at: dict[str, float] = {}
        self.wanted: Mapping[str, Version] = {}
        self.may_unload: Callable[[str], bool] = lambda _: False
        self.held: set[str] = set()
        self.refused: dict[str, SumikaError] = {}

    def forget(self) -> None:
        """The engine is gone, and with it all that it held."""
        self.held, self._proven = set(), {}

    async def adopt(self, client: EngineClient, proven: set[str]) -> None:
        """Take over an engine that ran before us: what its row says was proven, as far as it still holds it."""
        self.held = proven & await client.adapters()

    async def forget_after_sleep(self, client: EngineClient, weights_kept: bool) -> None:
        """All must be proven again; where the sleep threw weights away, what the engine still lists is only a name."""
        self.forget()
        for name in () if weights_kept else await client.adapters():
            await client.unload_adapter(name)

    async def believe(self, client: EngineClient) -> bool:
        """What the engine says it holds goes before what we remember of it, and so do files that are gone: it could answer from its
        links, but not after its next start. Whether something was lost."""
        gone = {name for name in self.held & self.wanted.keys() if not self._there(self.wanted[name])}
        lost = gone | self.held - await client.adapters()
        if lost:
            log.warning("the engine lost %s", ", ".join(sorted(lost)))
            self.held -= lost
            self._proven = {name: verdict for name, verdict in self._proven.items() if name in self.held}
        return bool(lost)

    async def load_next(self, client: EngineClient) -> bool:
        """Load and prove one adapter that is wanted and missing; whether `held` grew.

        Raises:
            SumikaError: `engine_unreachable`. An adapter that is refused is told in `refused` and tried again later.
        """
        for name in self._retry_at.keys() - self.wanted.keys():
            del self._retry_at[name]
            self.refused.pop(name, None)
        missing = (
            v for name, v in self.wanted.items() if name not in self.held and time.monotonic() >= self._retry_at.get(name, 0)
        )
        version = next(missing, None)
        if version is None:
            return False
        name = str(version.ref)
        try:
            await client.load_adapter(name, await asyncio.to_thread(self._laid_out, version))
            await self.proof(client, version)
        except SumikaError as error:
            if error.code not in _REFUSALS:
                raise
            self.refused[name] = error
            self._retry_at[name] = time.monotonic() + _RETRY_S
            log.error("%s", error.en)
            await client.unload_adapter(name)
            shutil.rmtree(self._seen / name, ignore_errors=True)
            return False
        self.refused.pop(name, None)
        self.held.add(name)
        log.info("loaded %s", name)
        return True

    @property
    def missing(self) -> bool:
        """Whether something is wanted that is neither held nor refused."""
        return any(name not in self.held and name not in self.refused for name in self.wanted)

    async def proof(self, client: EngineClient, version: Version) -> Verdict | None:
        """What the engine says of this adapter against its reference; None where it has none: it is unproven.

        Asked once for each time it is loaded.

        Raises:
            SumikaError: `canary_base`, `canary_differs`, `canary_failed`, `broken_artifact`, `engine_unreachable`.
        """
        name = str(version.ref)
        if name not in self._proven:
            folder = self._seen / name
            # An engine that a Sumika without links started has none.
            prompts = canary.load(folder if folder.is_dir() else self._artifacts / version.folder)
            if prompts is None:
                return None
            self._proven[name] = canary.judge(version.ref, prompts, await client.log_probabilities(name, prompts))
        return self._proven[name]

    def unneeded(self) -> str | None:
        """One adapter that nobody wants and nobody uses."""
        return next((name for name in sorted(self.held - self.wanted.keys()) if self.may_unload(name)), None)

    async def unload(self, client: EngineClient, name: str) -> None:
        await client.unload_adapter(name)
        shutil.rmtree(self._seen / name, ignore_errors=True)
        log.info("unloaded %s", name)

    def _there(self, version: Version) -> bool:
        return engine_client.readable(self._artifacts / version.folder)

    def _laid_out(self, version: Version) -> Path:
        """A folder that the engine sees, with the files of `version` just as they were imported.

        Raises:
            SumikaError: `adapter_refused`, where they are gone; `broken_artifact`, where they are others.
        """
        source, target = self._artifacts / version.folder, self._seen / str(version.ref)
        if not self._there(version):
            raise engine_client.gone(str(version.ref), source)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700, parents=True)
        try:
            for path in sorted(source.iterdir()):
                _link(path, target / path.name)
        except FileNotFoundError as error:
            raise engine_client.gone(str(version.ref), source) from error
        files = Integrity(version, target)
        files.check_names()
        files.check_all()
        return target

    def drop(self, name: str) -> None:
        """No longer `held`, before the engine is told: nothing may be sent there meanwhile."""
        self.held.discard(name)
        self._proven.pop(name, None)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # other disk, or a file system without links
        shutil.copy2(source, target, follow_symlinks=False)
