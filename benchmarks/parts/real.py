"""Real vLLM: asked by its own socket, around Sumika, and through it. And what both of them answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parts import places
from parts.places import Place
from sumika.cli import pulling
from sumika.models import aliases, catalog, engines, keys, registry
from sumika.models.bootstrap import open_store
from sumika.models.settings import Settings

ALIAS, BASE = "bench", "gemma-3-270m"


@contextmanager
def vllm(home: Path, start_within_s: float = 900) -> Iterator[list[Place]]:
    """A whole stack on a home that is kept, with the demo's base in service."""
    settings = Settings(home=home, port=places.free_port())
    store = open_store(settings)
    with store.read() as connection:
        base = registry.newest(connection, BASE)
    base = base or pulling.pull(settings, store, catalog.get(BASE))
    with store.write() as connection:
        aliases.ask_deploy(connection, ALIAS, base, actor="bench", reason="")
        secret, _ = keys.create(connection, f"bench-{time.time_ns()}")
    env = os.environ | {"SUMIKA_HOME": str(home), "SUMIKA_PORT": str(settings.port), "SUMIKA_LOG_LEVEL": "warning"}
    with places.running(sys.executable, "-m", "sumika.cli.main", "up", env=env):
        url = f"http://127.0.0.1:{settings.port}"
        places.until_ready(f"{url}/health/ready?model={ALIAS}", start_within_s, secret)
        with store.read() as connection:
            [engine] = [engine for engine in engines.list_all(connection) if engine.base_id == base.id]
        store.close()
        yield [Place("around", f"unix:{engine.socket}", "-", model=str(base.ref)), Place("through", url, secret, model=ALIAS)]
