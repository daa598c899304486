"""A company at work, for the console's pages to show: versions with their stories, keys, a month of usage, trainings."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update

from sumika.models import clock, importing, jobs, keys, limits, schema, teams
from sumika.models.registry import Gate, Version
from sumika.models.usage import table
from sumika.models.usage.rows import UsageRow
from tests.conftest import write_adapter, write_base
from tests.integration.conftest import Stack

TEAMS = {"soumu": "総務部", "eigyo": "営業部", "dx": "DX推進室"}
_LICENCE = {"id": "Gemma Terms of Use", "commercial": "conditions"}


class World:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.home = stack.settings.layout
        self.base = self._base("gemma-3-270m", 0)
        self.other = self._base("sarashina2.2-1b", 1)
        self.first, self.second = (self._adapter("sakura-faq", n) for n in (1, 2))
        self.refused = self._adapter("eigyo-mail", 3, gate="refused")

    def fill(self) -> None:
        """Teams, keys, limits, usage and jobs."""
        with self.stack.store.write() as connection:
            for name, title in TEAMS.items():
                teams.create(connection, name, title)
            # They were there before the usage that is made up below: nobody sees what is older than their team.
            connection.execute(update(schema.teams).values(created_at=clock.spell(datetime.now(UTC) - timedelta(days=60))))
            self.keys = [
                keys.create(connection, f"{team}-{app}", team=team, aliases=["sakura-faq"])[1]
                for team in TEAMS
                for app in ("bot", "batch")
            ]
            limits.set_limits(connection, ("team", "soumu"), {"requests_per_minute": 600, "tokens_per_month": 50_000_000})
            limits.set_limits(connection, ("alias", "sakura-faq"), {"streams": 32, "tokens_per_minute": 200_000})
        with self.stack.store.write(quiet=True) as connection:
            table.add(connection, list(self._usage()))
        self.done = self._job("sakura-faq", "done", 132, version="sakura-faq@2")
        self.running = self._job("eigyo-mail", "running", 61)
        self.failed = self._job(
            "keiri-shiwake", "failed", 12, note={"en": "CUDA out of memory", "ja": "GPU のメモリーが足りませんでした"}
        )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A worker elsewhere gives signs of life for the job that runs; without them the stack's own would take it over."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(2):
                with self.stack.store.write(quiet=True) as connection:
                    connection.execute(update(schema.jobs).where(schema.jobs.c.id == self.running).values(beat_at=clock.now()))

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _base(self, name: str, seed: int) -> Version:
        folder = write_base(self.stack.work / f"{name}-{seed}", seed=seed)
        meta = {"licence": _LICENCE, "source": {"hub": f"example/{name}"}}
        return importing.import_base(self.stack.store, self.home, name, folder, meta=meta)

    def _adapter(self, name: str, seed: int, gate: Gate = "passed") -> Version:
        folder = write_adapter(self.stack.work / f"{name}-{seed}", seed=seed, proven=True)
        made = importing.import_adapter(
            self.stack.store, self.home, name, folder, base=self.base.ref, max_lora_rank=16, gate=gate
        )
        score = {
            "rows": 15,
            "judged": 15,
            "right": 11 + seed,
            "exact": 6 + seed,
            "f1": 0.71 + seed / 20,
            "loss": 0.62 - seed / 10,
            "ended": 15,
        }
        low = score | {"right": 0, "exact": 0, "f1": 0.08, "loss": 3.421, "ended": 0}
        reasons = (
            []
            if gate == "passed"
            else [{"en": "11 of 15 facts are right; 13 are needed.", "ja": "正解は 15 問中 11 問です(13 問以上が必要)。"}]
        )
        meta = made.meta | {
            "evaluation": {"candidate": score, "base": low, "gate": gate, "reasons": reasons},
            "training": {
                "run": f"{name}-20261120T0{seed}", "steps": 132, "seconds": 101.0, "first_loss": 3.18, "last_loss": 0.41 - seed / 50,
                "config": {"lora": {"r": 8 * seed}}, "data": {"files": [{"file": "faq.jsonl", "rows": 72, "sha256": "ab" * 32}]},
            },
            "licence": _LICENCE,
        }  # fmt: skip
        v = schema.versions
        with self.stack.store.write() as connection:
            connection.execute(update(v).where(v.c.id == made.id).values(meta=meta))
        return self.stack.version(str(made.ref))

    def _usage(self) -> Any:
        """Office hours busier than nights; the same each time."""
        chance, now = random.Random(7), datetime.now(UTC)
        for n in range(1500):
            back = timedelta(minutes=chance.random() ** 2 * 29 * 24 * 60)
            at = now - back
            hour = at.astimezone().hour
            if chance.random() > 0.25 + 0.75 * max(0.0, math.sin((hour - 7) / 12 * math.pi)):
                continue
            key = chance.choice(self.keys)
            failed = chance.random() < 0.02
            yield UsageRow(
                f"req-{n:06d}", clock.spell(at), key.id, key.team, "sakura-faq" if chance.random() < 0.8 else "gemma", "sakura-faq@1",
                "chat", 503 if failed else 200, "no_engine" if failed else "", False, 180 + chance.randrange(900), 64, 0 if failed else 60 + chance.randrange(420),
                0, None if failed else 90 + chance.randrange(160), 900 + chance.randrange(2500),
            )  # fmt: skip

    def _job(self, name: str, state: str, steps: int, version: str | None = None, note: dict[str, str] | None = None) -> int:
        run = f"{name}-20261123T{steps:06d}"
        folder = self.home.runs / run
        folder.mkdir()
        losses = [
            {"step": n, "loss": 0.35 + 2.9 * math.exp(-n / 28) + 0.12 * math.sin(n * 1.7), "tokens_per_second": 812}
            for n in range(1, steps + 1)
        ]
        losses += [{"step": n, "eval_loss": 0.52 + 2.4 * math.exp(-n / 30)} for n in range(20, steps + 1, 20)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in losses))
        (folder / "config.yaml").write_text(
            f"job:\n  name: {name}\n  seed: {steps}\nbase:\n  version: gemma-3-270m@1\nlora:\n  r: 16\ntrain:\n  epochs: 4\n"
        )
        last = losses[steps - 1]["loss"]
        progress = {
            "state": "training", "step": steps, "steps": 132, "loss": last, "eval_loss": 0.61, "tokens_per_second": 812.0,
            "seconds": 46.0, "eta_s": 54.0, "memory_bytes": 2_100_000_000,
        }  # fmt: skip
        (folder / "progress.json").write_text(json.dumps(progress))
        (folder / "train.log").write_text(
            "".join(f"step {n}/132  loss {one['loss']:.3f}\n" for n, one in enumerate(losses[:steps], 1))
        )
        data = {
            "rows": {"read": 75, "kept": 72, "refused": 0, "dropped": {"too_long": 2, "nothing_left": 1}, "held_out": 15},
            "tokens": {"total": 6812, "trained": 3104, "shortest": 38, "median": 91, "longest": 214}, "leaks": {"near": 1},
            "duplicates": {"exact": 3, "near": 2}, "files": [{"file": "faq.jsonl", "rows": 75}],
            "pii": {"card": {"found": 0, "rows": 0, "action": "block"}, "phone": {"found": 4, "rows": 3, "action": "mask"}},
        }  # fmt: skip
        (folder / "data-report.json").write_text(json.dumps(data))
        if state == "done":
            (folder / "result.json").write_text(
                json.dumps({"version": version, "gate": "passed", "evaluation": self.second.meta["evaluation"]})
            )
        with self.stack.store.write() as connection:
            job = jobs.submit(connection, name, run, actor="oidc:company:tanaka", memory=2_400_000_000)
            values: dict[str, Any] = {"state": state, "version": version, "note": note, "attempts": 1, "started_at": clock.now()}
            if state == "running":
                values |= {"worker": "gpu-server:4711", "beat_at": clock.now()}
            else:
                values |= {"ended_at": clock.now()}
            connection.execute(update(schema.jobs).where(schema.jobs.c.id == job.id).values(**values))
        return job.id
